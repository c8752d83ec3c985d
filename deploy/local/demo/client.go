//go:build unix

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// client is one user of the API.
type client struct {
	base  string
	token string
	http  *http.Client
}

// statusError is an answer other than the expected ones.
type statusError struct {
	method, path string
	status       int
	body         string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s %s answers %d: %s", e.method, e.path, e.status, e.body)
}

// call sends in as JSON (nil: no body) and decodes the answer into out (nil:
// ignored). It waits when it is told to.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		if in == nil {
			req.Body, req.ContentLength = http.NoBody, 0
		} else {
			req.Header.Set("Content-Type", "application/json")
		}
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if resp.StatusCode == http.StatusTooManyRequests && attempt < 5 {
			seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
			if err := pause(ctx, time.Duration(max(1, seconds))*time.Second); err != nil {
				return err
			}
			continue
		}
		if resp.StatusCode >= 300 {
			return &statusError{method, path, resp.StatusCode, strings.TrimSpace(string(text))}
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(text, out); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// until repeats look until it reports true, for at most half a minute.
func until(ctx context.Context, what string, look func() (done bool, state string, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		done, state, err := look()
		if done && err == nil {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%s: not after 30s, it is %s", what, state)
		}
	}
}

type list[T any] struct {
	Items []T `json:"items"`
}

type order struct {
	ID             string    `json:"id"`
	RestaurantName string    `json:"restaurant_name"`
	Status         string    `json:"status"`
	Total          int64     `json:"total"`
	Currency       string    `json:"currency"`
	PaymentMethod  string    `json:"payment_method"`
	CancelReason   string    `json:"cancel_reason"`
	CreatedAt      time.Time `json:"created_at"`
}

type entry struct {
	At     time.Time      `json:"at"`
	Kind   string         `json:"kind"`
	Detail map[string]any `json:"detail"`
}

type restaurant struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Open bool   `json:"open"`
	Menu []struct {
		ID        string `json:"id"`
		Name      string `json:"name"`
		Price     int64  `json:"price"`
		Available bool   `json:"available"`
	} `json:"menu"`
}

type payment struct {
	Status string `json:"status"`
}

type notification struct {
	Kind    string `json:"kind"`
	OrderID string `json:"order_id"`
	Title   string `json:"title"`
}
