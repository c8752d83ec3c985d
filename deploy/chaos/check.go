//go:build unix

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/deploy/invariant"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
	"github.com/tiffin-platform/tiffin/pkg/event"
)

// withDatabase are the services that write, and so emit.
var withDatabase = []string{"auth-service", "order-service", "payment-service", "notification-service"}

// checker looks at the platform after the last fault, from behind: past the
// links, into the databases and the broker.
type checker struct {
	brokers []string
	saga    *invariant.Checker
	pools   map[string]*pgxpool.Pool
}

func openChecker(ctx context.Context, o runner.Options) (*checker, error) {
	c := &checker{brokers: o.Brokers(), pools: map[string]*pgxpool.Pool{}}
	for _, name := range withDatabase {
		cfg, err := pgxpool.ParseConfig(o.DatabaseURL(name))
		if err != nil {
			return nil, err
		}
		cfg.MaxConns = 2
		if c.pools[name], err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
			return nil, err
		}
	}
	var err error
	c.saga, err = invariant.Open(ctx, invariant.Databases{
		Order: o.DatabaseURL("order-service"), Payment: o.DatabaseURL("payment-service"), Notification: o.DatabaseURL("notification-service"),
	})
	return c, err
}

func (c *checker) close() {
	for _, p := range c.pools {
		p.Close()
	}
	if c.saga != nil {
		c.saga.Close()
	}
}

// verdict is what a check found.
type verdict struct {
	problems           []string
	confirmed, ended   int // orders; confirmed or later, and cancelled
	deadLetters        int // all of them explained, if there are no problems
	records, redundant int // in the topics; and those that are there again
}

func (v *verdict) wrong(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// check waits for the end of all sagas and of all work, and then looks for what
// got lost, was done twice or in the wrong order.
func (c *checker) check(ctx context.Context, orders []*order) (*verdict, error) {
	v := &verdict{}
	ids := make([]string, len(orders))
	for i, o := range orders {
		ids[i] = o.id
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("no order was accepted")
	}
	broken, err := c.saga.Wait(ctx, patience, ids...)
	if err != nil {
		return nil, err
	}
	if err := c.quiet(ctx, v); err != nil {
		return nil, err
	}
	v.problems = append(v.problems, broken...)
	for _, look := range []func(context.Context, *verdict, []*order) error{c.outcomes, c.timelines, c.letters, c.topics, c.notifications} {
		if err := look(ctx, v, orders); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// quiet waits until nothing is left to do: outboxes published, nothing parked,
// every group at the end of its topics.
func (c *checker) quiet(ctx context.Context, v *verdict) error {
	deadline := time.Now().Add(patience)
	for {
		left, err := c.leftovers(ctx)
		if err == nil && len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			v.problems = append(v.problems, left...)
			return err
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *checker) leftovers(ctx context.Context) ([]string, error) {
	var left []string
	for _, name := range withDatabase {
		rows, err := c.pools[name].Query(ctx, `
			select format('%s of %s outbox rows are not published, gaps %s', count(*) filter (where seq > c.pos), count(*), c.gaps)
			from msg.outbox o cross join msg.outbox_cursor c group by c.pos, c.gaps
			having count(*) filter (where seq > c.pos) > 0 or cardinality(c.gaps) > 0
			union all select format('outbox row %s is dead: %s', seq, error) from msg.outbox_dead
			union all select format('key %s of consumer %s is parked since %s', convert_from(key, 'utf8'), consumer, since) from msg.parked_keys
			union all select format('event %s of consumer %s is parked', event_id, consumer) from msg.parked_events`)
		if err != nil {
			return nil, err
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		for _, text := range found {
			left = append(left, name+": "+text)
		}
	}
	behind, err := c.lag(ctx)
	return append(left, behind...), err
}

// outcomes compares how the orders ended with what their customers were told
// and with what each payment method allows.
func (c *checker) outcomes(ctx context.Context, v *verdict, orders []*order) error {
	rows, err := c.pools["order-service"].Query(ctx, `select id::text, status, cancel_reason from orders`)
	if err != nil {
		return err
	}
	type end struct{ status, reason string }
	ends := map[string]end{}
	var id string
	var e end
	if _, err := pgx.ForEachRow(rows, []any{&id, &e.status, &e.reason}, func() error { ends[id] = e; return nil }); err != nil {
		return err
	}
	along := []string{"pending", "confirmed", "preparing", "out_for_delivery", "delivered"}
	for _, o := range orders {
		e, ok := ends[o.id]
		delete(ends, o.id)
		if !ok {
			v.wrong("order %s was accepted and is lost", o.id)
			continue
		}
		if e.status == "cancelled" {
			v.ended++
		} else {
			v.confirmed++
		}
		allowed := []string{"payment_timeout"}
		good := o.method == methods[0].token || o.method == "tok_provider_error_twice" || o.method == "tok_provider_answer_lost"
		if o.asked {
			allowed = append(allowed, "customer")
		}
		if !good && o.method != timesOut {
			allowed = append(allowed, "payment_failed")
		}
		switch {
		case e.status == "cancelled" && !slices.Contains(allowed, e.reason):
			v.wrong("order %s, paid with %s, was cancelled by %s", o.id, o.method, e.reason)
		case e.status != "cancelled" && !good:
			v.wrong("order %s is %s, though %s never pays", o.id, e.status, o.method)
		case o.cancelled && e.reason != "customer":
			v.wrong("the cancellation of order %s was confirmed, but it is %s (%s)", o.id, e.status, e.reason)
		case o.status != "" && slices.Index(along, e.status) < slices.Index(along, o.status):
			v.wrong("order %s was %s and is %s", o.id, o.status, e.status)
		}
	}
	for id := range ends {
		v.wrong("order %s was placed twice, or never asked for", id)
	}
	return nil
}

// timelines requires every timeline to be without holes, its statuses to follow
// each other, and each fact of the payment service to be on it.
func (c *checker) timelines(ctx context.Context, v *verdict, _ []*order) error {
	rows, err := c.pools["order-service"].Query(ctx, `
		select format('the timeline of order %s is broken: %s', order_id, string_agg(format('%s %s %s', seq, kind, detail), ', ' order by seq))
		from (
			select *, row_number() over w as n,
				coalesce(lag(detail->>'to') over (partition by order_id, kind in ('order.status_changed', 'order.cancelled') order by seq), 'pending') as before
			from timeline window w as (partition by order_id order by seq)
		) t
		group by order_id
		having bool_or(seq <> n) or bool_or((n = 1) <> (kind = 'order.created'))
			or bool_or(kind in ('order.status_changed', 'order.cancelled') and detail->>'from' <> before)`)
	if err != nil {
		return err
	}
	broken, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	v.problems = append(v.problems, broken...)
	noted, err := c.eventIDs(ctx, "order-service", `select event_id::text, order_id::text, kind, seq from timeline`)
	if err != nil {
		return err
	}
	facts, err := c.emitted(ctx, "payment-service")
	if err != nil {
		return err
	}
	for id, e := range facts {
		if e.topic != event.TypePaymentCompleted && e.topic != event.TypePaymentFailed && e.topic != event.TypePaymentRefunded {
			continue
		}
		if _, ok := noted[id]; !ok {
			v.wrong("%s %s is not on the timeline of order %s", e.topic, id, e.key)
		}
	}
	return nil
}

// letters requires the dead letters to be the payments whose provider never
// answered.
func (c *checker) letters(ctx context.Context, v *verdict, orders []*order) error {
	hopeless := map[string]bool{}
	for _, o := range orders {
		hopeless[o.id] = o.method == timesOut
	}
	for _, name := range withDatabase {
		rows, err := c.pools[name].Query(ctx, `select convert_from(key, 'utf8'), type, attempts, error_class, error from msg.dead_letters`)
		if err != nil {
			return err
		}
		var key, typ, class, cause string
		var attempts int
		_, err = pgx.ForEachRow(rows, []any{&key, &typ, &attempts, &class, &cause}, func() error {
			v.deadLetters++
			if typ != event.TypeOrderCreated || name != "payment-service" || !hopeless[key] {
				v.wrong("%s gave up on %s of %s after %d attempts: %s: %s", name, typ, key, attempts, class, cause)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notified are the events that make a notification each.
var notified = []string{
	event.TypeOrderCreated, event.TypePaymentCompleted, event.TypePaymentFailed,
	event.TypeOrderCancelled, event.TypeOrderStatusChanged, event.TypePaymentRefunded,
}

// notifications requires one per event, and those of one order and topic to be
// written in the order in which the events were.
func (c *checker) notifications(ctx context.Context, v *verdict, _ []*order) error {
	// Nobody has looked at them, so their rows are as they were inserted, and the
	// transactions' numbers tell their order: they were begun one after the other.
	made, err := c.eventIDs(ctx, "notification-service", `select event_id::text, coalesce(order_id::text, ''), kind, xmin::text::bigint from notifications`)
	if err != nil {
		return err
	}
	type stream struct{ topic, key string }
	streams := map[stream][]fact{}
	for _, name := range []string{"order-service", "payment-service"} {
		events, err := c.emitted(ctx, name)
		if err != nil {
			return err
		}
		for id, e := range events {
			if !slices.Contains(notified, e.topic) {
				continue
			}
			n, ok := made[id]
			if !ok {
				v.wrong("%s %s of %s made no notification", e.topic, id, e.key)
				continue
			}
			delete(made, id)
			s := stream{e.topic, e.key}
			streams[s] = append(streams[s], fact{e.topic, e.key, e.seq, n.seq})
		}
	}
	for id, n := range made {
		if n.key != "" {
			v.wrong("notification %s of order %s is about the event %s, which nobody emitted", n.topic, n.key, id)
		}
	}
	for s, list := range streams {
		slices.SortFunc(list, func(a, b fact) int { return int(a.seq - b.seq) })
		if !slices.IsSortedFunc(list, func(a, b fact) int { return int(a.effect - b.effect) }) {
			v.wrong("%s of order %s was handled in another order than emitted: %+v", s.topic, s.key, list)
		}
	}
	return nil
}

// fact is an event in an outbox, or what a consumer made of one.
type fact struct {
	topic, key  string
	seq, effect int64
}

// emitted returns a service's outbox by event id, without retries and letters.
func (c *checker) emitted(ctx context.Context, name string) (map[string]fact, error) {
	return c.eventIDs(ctx, name, `select event_id::text, convert_from(key, 'utf8'), topic, seq from msg.outbox where not topic ~ '(\.retry\.[123]|\.dlq)$'`)
}

// eventIDs reads event id, key, topic and a number.
func (c *checker) eventIDs(ctx context.Context, name, sql string) (map[string]fact, error) {
	rows, err := c.pools[name].Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	all := map[string]fact{}
	var id string
	var f fact
	_, err = pgx.ForEachRow(rows, []any{&id, &f.key, &f.topic, &f.seq}, func() error { all[id] = f; return nil })
	return all, err
}
