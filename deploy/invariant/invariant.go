// Package invariant checks what must be true of every order once its saga has
// ended, whatever happened on the way: the order, its payment, the simulated
// provider's ledger and the customer's notifications agree.
package invariant

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Databases are connection URLs of the databases that are looked into.
type Databases struct{ Order, Payment, Notification string }

// Checker looks into the databases. It must be closed.
type Checker struct {
	orders, payments, notifications *pgxpool.Pool
}

// Open returns a checker; it connects at the first check.
func Open(ctx context.Context, db Databases) (*Checker, error) {
	c := &Checker{}
	for _, p := range []struct {
		pool **pgxpool.Pool
		url  string
	}{{&c.orders, db.Order}, {&c.payments, db.Payment}, {&c.notifications, db.Notification}} {
		cfg, err := pgxpool.ParseConfig(p.url)
		if err == nil {
			cfg.MaxConns = 2
			*p.pool, err = pgxpool.NewWithConfig(ctx, cfg)
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("open %s: %w", p.url, err)
		}
	}
	return c, nil
}

// Close closes the connections.
func (c *Checker) Close() {
	for _, p := range []*pgxpool.Pool{c.orders, c.payments, c.notifications} {
		if p != nil {
			p.Close()
		}
	}
}

// state is all that is known about one order.
type state struct {
	ID      uuid.UUID
	Status  string
	Total   int64
	Payment string // its status, "" when there is none
	Charges int    // in the ledger
	Kept    int64  // charged less refunded
	Refunds int
	Kinds   []string // of its notifications, sorted
	Emitted int      // order.cancelled events in the outbox
}

// Wait checks the orders until the invariant holds for all of them, at most for
// limit, and returns what does not hold then.
func (c *Checker) Wait(ctx context.Context, limit time.Duration, orders ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var problems []string
	var err error
	for {
		var now []string
		if now, err = c.Check(ctx, orders...); err == nil {
			problems = now
			if len(problems) == 0 {
				return nil, nil
			}
		}
		select {
		case <-ctx.Done():
			if len(problems) == 0 {
				return nil, fmt.Errorf("check the invariant: %w", err)
			}
			return problems, nil
		case <-tick.C:
		}
	}
}

// Check returns what does not hold now, one line per order that is not at its
// end or is wrong.
func (c *Checker) Check(ctx context.Context, orders ...string) ([]string, error) {
	states, err := c.load(ctx, orders)
	if err != nil {
		return nil, err
	}
	var problems []string
	for _, s := range states {
		if wrong := s.violations(); len(wrong) > 0 {
			problems = append(problems, fmt.Sprintf("order %s: %s; %+v", s.ID, strings.Join(wrong, ", "), *s))
		}
	}
	if missing := len(orders) - len(states); missing > 0 {
		problems = append(problems, fmt.Sprintf("%d accepted orders are not stored", missing))
	}
	return problems, nil
}

// violations lists what is wrong with an order or not done yet.
func (s *state) violations() []string {
	var wrong []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	want(s.Charges <= 1, "charged %d times", s.Charges)
	switch s.Status {
	case "pending":
		want(false, "still pending")
	case "cancelled":
		want(s.Kept == 0, "cancelled, but %d of its money is kept", s.Kept)
		want(slices.Contains([]string{"failed", "voided", "refunded"}, s.Payment), "cancelled, but the payment is %q", s.Payment)
		want(s.Emitted == 1, "order.cancelled was emitted %d times", s.Emitted)
		want(s.count("order_cancelled") == 1, "no notification of the cancellation")
		want((s.Payment == "refunded") == (s.Refunds == 1), "payment %s with %d refunds in the ledger", s.Payment, s.Refunds)
		want(s.count("payment_refunded") == s.Refunds, "refund and its notification differ")
		want((s.Payment == "failed") == (s.count("payment_failed") == 1), "failure and its notification differ")
	default:
		want(s.Payment == "completed", "%s, but the payment is %q", s.Status, s.Payment)
		want(s.Charges == 1 && s.Kept == s.Total, "%s, but %d of %d is kept after %d charges", s.Status, s.Kept, s.Total, s.Charges)
		want(s.Emitted == 0, "order.cancelled was emitted")
		for _, kind := range []string{"payment_completed", "order_confirmed"} {
			want(s.count(kind) == 1, "no notification %s", kind)
		}
	}
	want(s.count("order_placed") == 1, "no notification order_placed")
	for i := 1; i < len(s.Kinds); i++ {
		want(s.Kinds[i] != s.Kinds[i-1], "notification %s is doubled", s.Kinds[i])
	}
	return wrong
}

func (s *state) count(kind string) int {
	n := 0
	for _, k := range s.Kinds {
		if k == kind {
			n++
		}
	}
	return n
}

func (c *Checker) load(ctx context.Context, orders []string) (map[uuid.UUID]*state, error) {
	states := map[uuid.UUID]*state{}
	var (
		s    state
		id   uuid.UUID
		text string
		n    int
		sum  int64
	)
	// each runs a query over the orders and calls row for each of its rows.
	each := func(pool *pgxpool.Pool, sql string, ids any, into []any, row func()) error {
		rows, err := pool.Query(ctx, sql, ids)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, into, func() error { row(); return nil })
		return err
	}
	known := func(f func(*state)) func() {
		return func() {
			if s := states[id]; s != nil {
				f(s)
			}
		}
	}
	steps := []func() error{
		func() error {
			return each(c.orders, `select id, status, total from orders where id = any($1::uuid[])`, orders,
				[]any{&s.ID, &s.Status, &s.Total}, func() { found := s; states[s.ID] = &found })
		},
		func() error {
			return each(c.orders, `select convert_from(key, 'utf8')::uuid, count(*) from msg.outbox
				where topic = 'order.cancelled' and convert_from(key, 'utf8') = any($1::text[]) group by 1`, orders,
				[]any{&id, &n}, known(func(s *state) { s.Emitted = n }))
		},
		func() error {
			return each(c.payments, `select order_id, status from payments where order_id = any($1::uuid[])`, orders,
				[]any{&id, &text}, known(func(s *state) { s.Payment = text }))
		},
		func() error {
			return each(c.payments, `select key::uuid, count(*), sum(amount)::bigint from simulator.charges where key = any($1::text[]) group by 1`, orders,
				[]any{&id, &n, &sum}, known(func(s *state) { s.Charges, s.Kept = n, s.Kept+sum }))
		},
		func() error {
			return each(c.payments, `select key::uuid, count(*), sum(amount)::bigint from simulator.voids
				where kind = 'refund' and key = any($1::text[]) group by 1`, orders,
				[]any{&id, &n, &sum}, known(func(s *state) { s.Refunds, s.Kept = n, s.Kept-sum }))
		},
		func() error {
			return each(c.notifications, `select order_id, kind from notifications where order_id = any($1::uuid[]) order by kind`, orders,
				[]any{&id, &text}, known(func(s *state) { s.Kinds = append(s.Kinds, text) }))
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read the state of orders: %w", err)
		}
	}
	return states, nil
}
