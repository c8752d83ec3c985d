//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

const (
	customers = 8
	// inFlight bounds the orders that are placed, cancelled or moved on at once.
	inFlight = 400
	// patience bounds what a client waits for after the last fault.
	patience = 90 * time.Second

	kitchen = "/restaurants/01900000-0000-7000-8000-000000000001"

	timesOut = "tok_provider_timeout" // never answers: ends in the dead letters
)

// methods are the payment methods and how often each is used: cards that are
// good and declined, and a provider that fails.
var methods = []struct {
	token  string
	weight int
}{
	{"pm_card_visa", 66},
	{"pm_card_visa_chargeDeclined", 10},
	{"pm_card_visa_chargeDeclinedInsufficientFunds", 4},
	{"tok_provider_error_twice", 8},
	{"tok_provider_answer_lost", 8},
	{timesOut, 4},
}

// order is an accepted order and what its customer was told about it.
type order struct {
	id, method string
	asked      bool   // somebody asked to cancel it
	cancelled  bool   // and was told that it is
	status     string // an Admin was told that it has it
}

// load places orders and does to them what customers and Admins do.
type load struct {
	shop      *shop
	seed      uint64
	admin     *client
	customers []*client
	basket    map[string]any

	wg       sync.WaitGroup
	mu       sync.Mutex
	orders   map[string]*order
	problems []string
}

// newLoad registers the customers.
func newLoad(ctx context.Context, gateways []string, seed uint64) (*load, error) {
	l := &load{shop: newShop(gateways), seed: seed, orders: map[string]*order{}}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	login := func(email, password string) (*client, error) {
		tokens, err := read[struct {
			Access string `json:"access_token"`
		}](ctx, &client{shop: l.shop}, "POST", "/auth/login", map[string]any{"email": email, "password": password}, http.StatusOK)
		return &client{l.shop, tokens.Access}, err
	}
	var err error
	if l.admin, err = login(runner.AdminEmail, runner.AdminPassword); err != nil {
		return nil, err
	}
	const password = "correct horse battery staple"
	for i := range customers {
		email := fmt.Sprintf("chaos-%d@example.com", i)
		body := map[string]any{"email": email, "password": password, "name": "Asha"}
		if _, err := read[struct{}](ctx, l.admin, "POST", "/auth/register", body, http.StatusCreated); err != nil {
			return nil, err
		}
		c, err := login(email, password)
		if err != nil {
			return nil, err
		}
		l.customers = append(l.customers, c)
	}
	r, err := read[struct {
		ID   string
		Menu []struct {
			ID        string
			Available bool
		}
	}](ctx, l.admin, "GET", kitchen, nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	for _, m := range r.Menu {
		if m.Available {
			l.basket = map[string]any{
				"restaurant_id":    r.ID,
				"items":            []map[string]any{{"menu_item_id": m.ID, "quantity": 2}},
				"delivery_address": map[string]any{"line1": "1 Lunch Lane", "city": "Berlin", "postal_code": "10115", "country": "DE"},
			}
			return l, nil
		}
	}
	return nil, fmt.Errorf("nothing to eat at %s", kitchen)
}

// run places orders at a rate until ctx ends. Those that are under way go on
// until finish.
func (l *load) run(ctx, life context.Context, rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	slots := make(chan struct{}, inFlight)
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue // as many as may hang do so
		}
		l.wg.Go(func() {
			defer func() { <-slots }()
			if err := l.play(life, rand.New(rand.NewPCG(l.seed, 1000+n))); err != nil {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.problems = append(l.problems, err.Error())
			}
		})
	}
}

// play is the life of one order, as its customer and the Admin see it.
func (l *load) play(ctx context.Context, rng *rand.Rand) error {
	c := l.customers[rng.IntN(len(l.customers))]
	weights := make([]int, len(methods))
	for i, m := range methods {
		weights[i] = m.weight
	}
	method := methods[pick(rng, weights)].token
	o, err := l.place(ctx, c, method, rng.IntN(20) == 0, rng.IntN(10) == 0)
	if err != nil {
		return err
	}
	cancels, moves := rng.IntN(5) == 0, rng.IntN(8) == 0
	// At once, before, while or after it is paid, or much later.
	delay := []time.Duration{0, 30 * time.Millisecond, 500 * time.Millisecond, 6 * time.Second}[rng.IntN(4)]
	if delay > 0 {
		delay = time.Duration(rng.Int64N(int64(delay)))
	}
	var wg sync.WaitGroup
	var moved error
	if moves {
		wg.Go(func() { moved = l.deliver(ctx, o) })
	}
	if cancels {
		err = l.cancel(ctx, c, o, delay)
	}
	wg.Wait()
	if err != nil {
		return err
	}
	return moved
}

// place orders with an Idempotency-Key until it is accepted, perhaps with two
// requests at the same time, perhaps once more afterwards: it is one order.
func (l *load) place(ctx context.Context, c *client, method string, twice, again bool) (*order, error) {
	body := map[string]any{"payment_method": method}
	for k, v := range l.basket {
		body[k] = v
	}
	key := uuid.NewString()
	post := func() (string, error) {
		a, err := c.insist(ctx, http.MethodPost, "/orders", body, key, http.StatusConflict)
		if err != nil {
			return "", err
		}
		var placed struct{ ID, Status string }
		if err := json.Unmarshal(a.body, &placed); a.status != http.StatusCreated || err != nil || placed.Status != "pending" {
			return "", fmt.Errorf("an order was refused: %d %s", a.status, a.body)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.orders[placed.ID] == nil {
			l.orders[placed.ID] = &order{id: placed.ID, method: method}
		}
		return placed.ID, nil
	}
	ids := make([]string, 1, 3)
	var err, other error
	if twice {
		ids = append(ids, "")
		var wg sync.WaitGroup
		wg.Go(func() { ids[1], other = post() })
		ids[0], err = post()
		wg.Wait()
	} else {
		ids[0], err = post()
	}
	if err == nil && other == nil && again {
		ids = append(ids, "")
		ids[len(ids)-1], err = post()
	}
	if err != nil {
		return nil, err
	}
	if other != nil {
		return nil, other
	}
	for _, id := range ids {
		if id != ids[0] {
			return nil, fmt.Errorf("one Idempotency-Key made the orders %v", ids)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.orders[ids[0]], nil
}

// cancel asks for the end of an order. It may be too late for that.
func (l *load) cancel(ctx context.Context, c *client, o *order, after time.Duration) error {
	if err := wait(ctx, after); err != nil {
		return err
	}
	l.mu.Lock()
	o.asked = true
	l.mu.Unlock()
	a, err := c.insist(ctx, http.MethodPost, "/orders/"+o.id+"/cancel", nil, "", 0)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK && a.status != http.StatusConflict {
		return fmt.Errorf("cancel order %s: %d %s", o.id, a.status, a.body)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o.cancelled = a.status == http.StatusOK
	return nil
}

// deliver moves an order on as soon as it is confirmed, as far as it gets.
func (l *load) deliver(ctx context.Context, o *order) error {
	for {
		now, err := read[struct{ Status string }](ctx, l.admin, http.MethodGet, "/orders/"+o.id, nil, http.StatusOK)
		if err != nil {
			return err
		}
		if now.Status == "cancelled" {
			return nil
		}
		if now.Status == "confirmed" {
			break
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("order %s does not end: %w", o.id, err)
		}
	}
	for _, status := range []string{"preparing", "out_for_delivery", "delivered"} {
		a, err := l.admin.insist(ctx, http.MethodPost, "/admin/orders/"+o.id+"/status", map[string]any{"status": status}, "", 0)
		if err != nil {
			return err
		}
		switch a.status {
		case http.StatusOK:
			l.mu.Lock()
			o.status = status
			l.mu.Unlock()
		case http.StatusConflict: // cancelled meanwhile, or the answer to the same request before got lost
		default:
			return fmt.Errorf("move order %s to %s: %d %s", o.id, status, a.status, a.body)
		}
	}
	return nil
}

// finish waits for the orders that are under way and returns all.
func (l *load) finish() (orders []*order, problems []string) {
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.orders {
		orders = append(orders, o)
	}
	return orders, l.problems
}
