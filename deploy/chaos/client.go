//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// client is one user's way into the platform, through any of the gateways.
type client struct {
	*shop
	token string
}

// shop is what all clients share.
type shop struct {
	gateways []string
	http     *http.Client

	mu      sync.Mutex
	trouble map[string]int // answers that had to be asked for again, by what came
}

func newShop(gateways []string) *shop {
	return &shop{
		gateways: gateways, trouble: map[string]int{},
		// Impatient: a client that asks again while its first request hangs in a
		// stopped process is what Idempotency-Key is for.
		http: &http.Client{Timeout: 4 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
}

// answer is what came back, read to its end.
type answer struct {
	status int
	body   []byte
}

// once sends a request to one of the gateways.
func (c *client) once(ctx context.Context, method, path string, body any, key string) (answer, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	if body == nil {
		raw = nil
	}
	gateway := c.gateways[rand.IntN(len(c.gateways))]
	req, err := http.NewRequestWithContext(ctx, method, gateway+path, bytes.NewReader(raw))
	if err != nil {
		return answer{}, err
	}
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, text}, err
}

// insist sends a request until it is answered with something other than a
// failure or again, a status that asks for patience (0: none does).
func (c *client) insist(ctx context.Context, method, path string, body any, key string, again int) (answer, error) {
	for {
		a, err := c.once(ctx, method, path, body, key)
		if err == nil && a.status < 500 && a.status != again {
			return a, nil
		}
		what := "none"
		if err == nil {
			what = fmt.Sprint(a.status)
		}
		c.mu.Lock()
		c.trouble[what]++
		c.mu.Unlock()
		if wait(ctx, 50*time.Millisecond+rand.N(200*time.Millisecond)) != nil {
			return a, fmt.Errorf("%s %s: no answer in time, last %d %s: %w", method, path, a.status, a.body, err)
		}
	}
}

// read decodes the answer to a request that must succeed with the status.
func read[T any](ctx context.Context, c *client, method, path string, body any, status int) (T, error) {
	var v T
	a, err := c.insist(ctx, method, path, body, "", 0)
	if err != nil {
		return v, err
	}
	if a.status != status {
		return v, fmt.Errorf("%s %s: %d %s", method, path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		return v, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return v, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
