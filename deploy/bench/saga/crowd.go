//go:build unix

package saga

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
)

// The demo catalogue's first restaurant.
const restaurantID = "01900000-0000-7000-8000-000000000001"

// crowd are the customers: each has a token, and a stream that tells when
// orders are paid and confirmed.
type crowd struct {
	base   string
	http   *http.Client
	tokens []string
	body   []byte
	cancel context.CancelFunc
	gone   sync.WaitGroup

	mu     sync.Mutex
	orders map[string]*saga // by order id
	wake   chan struct{}
	broken error
}

// saga is one order on its way.
type saga struct {
	due             time.Time // zero until the answer to the POST came
	paid, confirmed bool
	ended           time.Time
}

func newCrowd(ctx context.Context, base string, users int) (*crowd, error) {
	c := &crowd{
		base: base, orders: map[string]*saga{}, wake: make(chan struct{}, 1),
		http: &http.Client{Transport: &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000}},
	}
	ctx, c.cancel = context.WithCancel(ctx)
	if err := c.menu(ctx); err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2) // password hashing
	c.tokens = make([]string, users)
	for i := range users {
		g.Go(func() (err error) {
			c.tokens[i], err = c.register(gctx, fmt.Sprintf("bench-%d-%d@example.com", time.Now().UnixNano(), i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range users {
		if err := c.watch(ctx, c.tokens[i]); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *crowd) close() {
	c.cancel()
	c.gone.Wait()
	c.http.CloseIdleConnections()
}

// menu reads what can be ordered and prepares the body of every order.
func (c *crowd) menu(ctx context.Context) error {
	var r struct {
		Menu []struct {
			ID        string `json:"id"`
			Available bool   `json:"available"`
		} `json:"menu"`
	}
	if err := c.call(ctx, http.MethodGet, "/restaurants/"+restaurantID, "", nil, &r); err != nil {
		return err
	}
	for _, dish := range r.Menu {
		if dish.Available {
			var err error
			c.body, err = json.Marshal(map[string]any{
				"restaurant_id": restaurantID, "items": []any{map[string]any{"menu_item_id": dish.ID, "quantity": 2}},
				"delivery_address": map[string]any{"line1": "1 Lunch Lane", "city": "Berlin", "postal_code": "10115", "country": "DE"},
				"payment_method":   "pm_card_visa",
			})
			return err
		}
	}
	return errors.New("the demo restaurant has nothing to order")
}

func (c *crowd) register(ctx context.Context, email string) (string, error) {
	const password = "correct horse battery staple"
	account := map[string]any{"email": email, "password": password, "name": "Asha"}
	if err := c.call(ctx, http.MethodPost, "/auth/register", "", account, nil); err != nil {
		return "", err
	}
	var tokens struct {
		Access string `json:"access_token"`
	}
	err := c.call(ctx, http.MethodPost, "/auth/login", "", map[string]any{"email": email, "password": password}, &tokens)
	return tokens.Access, err
}

func (c *crowd) call(ctx context.Context, method, path, token string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	return c.send(ctx, method, path, token, body, out)
}

func (c *crowd) send(ctx context.Context, method, path, token string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s answers %d: %.300s", method, path, resp.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// watch opens a customer's stream of notifications.
func (c *crowd) watch(ctx context.Context, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/notifications/stream", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return fmt.Errorf("GET /notifications/stream answers %s", resp.Status)
	}
	c.gone.Go(func() {
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				c.notified(data)
			}
		}
		if ctx.Err() == nil {
			c.fail(fmt.Errorf("a stream of notifications ended: %w", cmp.Or(lines.Err(), io.EOF)))
		}
	})
	return nil
}

func (c *crowd) fail(err error) {
	c.mu.Lock()
	if c.broken == nil {
		c.broken = err
	}
	c.mu.Unlock()
	c.ring()
}

func (c *crowd) ring() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *crowd) notified(data string) {
	now := time.Now()
	var n struct {
		Kind    string `json:"kind"`
		OrderID string `json:"order_id"`
	}
	if err := json.Unmarshal([]byte(data), &n); err != nil {
		c.fail(fmt.Errorf("notification %.200q: %w", data, err))
		return
	}
	if n.OrderID == "" {
		return // the welcome
	}
	c.mu.Lock()
	s := c.find(n.OrderID)
	s.paid = s.paid || n.Kind == "payment_completed"
	s.confirmed = s.confirmed || n.Kind == "order_confirmed"
	ended := s.paid && s.confirmed && s.ended.IsZero()
	if ended {
		s.ended = now
	}
	c.mu.Unlock()
	if ended {
		c.ring()
	}
}

// find is called with mu held: a notification may overtake the POST's answer.
func (c *crowd) find(id string) *saga {
	s := c.orders[id]
	if s == nil {
		s = &saga{}
		c.orders[id] = s
	}
	return s
}

// place places one order for the ith customer.
func (c *crowd) place(ctx context.Context, i int, due time.Time) (string, error) {
	var o struct {
		ID string `json:"id"`
	}
	if err := c.send(ctx, http.MethodPost, "/orders", c.tokens[i%len(c.tokens)], c.body, &o); err != nil {
		return "", err
	}
	c.mu.Lock()
	c.find(o.ID).due = due
	c.mu.Unlock()
	return o.ID, nil
}

func (c *crowd) closedLoop(ctx context.Context, n, clients int) ([]string, error) {
	ids := make([]string, n)
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				var err error
				if ids[i], err = c.place(gctx, i, time.Now()); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return ids, c.settle(ctx, nil, n)
}

// timing is what an open loop measures.
type timing struct {
	post, done measure.Latencies
	ids        []string
}

func (c *crowd) openLoop(ctx context.Context, rate float64, n int) (*timing, error) {
	var t timing
	var posts sync.WaitGroup
	posts.Add(n)
	measure.Pace(ctx, rate, n, func(i int, due time.Time) {
		defer posts.Done()
		if _, err := c.place(ctx, i, due); err != nil {
			c.fail(err)
			return
		}
		t.post.Add(time.Since(due))
	})
	posts.Wait()
	return &t, c.settle(ctx, &t, n)
}

// settle waits until n orders have ended, times them and forgets them.
func (c *crowd) settle(ctx context.Context, t *timing, n int) error {
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		c.mu.Lock()
		ended := 0
		for _, s := range c.orders {
			if !s.ended.IsZero() && !s.due.IsZero() {
				ended++
			}
		}
		broken := c.broken
		if ended >= n && broken == nil {
			for id, s := range c.orders {
				if t != nil {
					t.done.Add(s.ended.Sub(s.due))
					t.ids = append(t.ids, id)
				}
			}
			clear(c.orders)
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		if broken != nil {
			return broken
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return fmt.Errorf("%d of %d orders are not paid and notified after two minutes", n-ended, n)
		case <-c.wake:
			// Not for every single order: looking through all costs too.
			if err := measure.Wait(ctx, 2*time.Millisecond); err != nil {
				return err
			}
		}
	}
}
