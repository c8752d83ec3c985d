//go:build unix

package messaging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/deploy/bench/rig"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// GrowthOptions are sizes.
type GrowthOptions struct {
	Rounds    int
	Processed int           // rows in processed_events of the full database
	Backlog   int           // rows in the outbox of the full database
	Events    int           // events that are measured
	Commit    time.Duration // length of a commit run
	Writers   int
}

// RunGrowth measures what an event costs next to full tables and next to empty
// ones, and prints the ratio.
func RunGrowth(ctx context.Context, r *rig.Rig, o GrowthOptions, out io.Writer, say func(string, ...any)) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Kafka.Brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	b := &bench{
		Rig: r, log: slog.New(slog.DiscardHandler), admin: kadm.NewClient(client),
		o: Options{Consume: o.Events, Backlog: o.Events, Commit: o.Commit, Writers: o.Writers},
	}
	empty, closeEmpty, err := b.database(ctx, consumers)
	if err != nil {
		return err
	}
	defer closeEmpty()
	full, closeFull, err := b.database(ctx, consumers)
	if err != nil {
		return err
	}
	defer closeFull()
	say("filling %d processed events", o.Processed)
	if err := fillProcessed(ctx, full, o.Processed); err != nil {
		return err
	}
	say("filling an outbox with %d rows", o.Backlog)
	if err := b.fillOutbox(ctx, full, order, o.Backlog); err != nil {
		return err
	}
	pairs := []struct {
		what        string
		empty, full func(context.Context) (measure.Result, error)
		fullName    string
	}{
		{
			"consume", func(ctx context.Context) (measure.Result, error) { return b.consumeIn(ctx, empty, true) },
			func(ctx context.Context) (measure.Result, error) { return b.consumeIn(ctx, full, false) },
			fmt.Sprintf("%d processed events", o.Processed),
		},
		{
			"commit with an event", func(ctx context.Context) (measure.Result, error) { return b.commitIn(ctx, empty) },
			func(ctx context.Context) (measure.Result, error) { return b.commitIn(ctx, full) },
			fmt.Sprintf("%d outbox rows", o.Backlog),
		},
		{
			"relay", func(ctx context.Context) (measure.Result, error) { return b.relayIn(ctx, o.Events) },
			func(ctx context.Context) (measure.Result, error) { return b.relayIn(ctx, o.Backlog) },
			fmt.Sprintf("a backlog of %d", o.Backlog),
		},
	}
	var cases []measure.Case
	for _, p := range pairs {
		cases = append(cases, measure.Case{Name: p.what + ", empty tables", Run: p.empty}, measure.Case{Name: p.what + ", " + p.fullName, Run: p.full})
	}
	s, err := measure.Rounds(ctx, o.Rounds, cases, say)
	if err != nil {
		return err
	}
	t := measure.Table{Title: "Cost per event, PostgreSQL and service together", Header: []string{"", "events/s", "CPU µs per event", "CPU to empty", "time to empty"}}
	for i := 0; i < len(cases); i += 2 {
		base := cases[i].Name
		for _, c := range cases[i : i+2] {
			t.Add(c.Name, measure.Spread(s[c.Name]["events/s"]), measure.Spread(s[c.Name]["CPU µs"]),
				measure.Ratio(s.Median(c.Name, "CPU µs")/s.Median(base, "CPU µs")), measure.Ratio(s.Median(base, "events/s")/s.Median(c.Name, "events/s")))
		}
	}
	t.Print(out)
	return nil
}

// fillProcessed writes ids as they come in thirteen days, in their order.
func fillProcessed(ctx context.Context, pool *pgxpool.Pool, n int) error {
	began := time.Now().Add(-13 * 24 * time.Hour).UnixMilli()
	step := float64(12*24*time.Hour.Milliseconds()) / float64(max(1, n))
	return slow(ctx, pool, `insert into msg.processed_events (consumer, event_id, attempt)
		select 1, (lpad(to_hex($1::bigint + (i * $2::float8)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid, 0
		from generate_series(1, $3::bigint) i, lateral (select md5(i::text) h) m`, began, step, n)
}

// slow runs a statement that may take longer than the pool allows.
func slow(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for _, s := range []struct {
		sql  string
		args []any
	}{{sql: `set statement_timeout = 0`}, {sql, args}, {sql: `vacuum analyze`}, {sql: `checkpoint`}, {sql: `reset statement_timeout`}} {
		if _, err := conn.Exec(ctx, s.sql, s.args...); err != nil {
			return fmt.Errorf("%.60s: %w", s.sql, err)
		}
	}
	return nil
}

// fillOutbox writes committed events of the usual size.
func (b *bench) fillOutbox(ctx context.Context, pool *pgxpool.Pool, topic string, n int) error {
	e := newEvent(topic, 0)
	return slow(ctx, pool, `insert into msg.outbox (event_id, topic, key, value, headers)
		select gen_random_uuid(), $2, convert_to('key-' || i % 1000, 'UTF8'), $3, $4 from generate_series(1, $1::bigint) i`,
		n, topic, e.Data, outbox.EncodeHeaders(record(e).Headers))
}

// costs runs work on n events and adds up what this program and PostgreSQL
// used for them.
func (b *bench) costs(work func() (n float64, took time.Duration, err error)) (measure.Result, error) {
	used := func() (time.Duration, error) {
		own, err := measure.CPU(os.Getpid())
		if err != nil {
			return 0, err
		}
		server, err := measure.FamilyCPU(b.PostgresPid())
		return own + server, err
	}
	before, err := used()
	if err != nil {
		return nil, err
	}
	n, took, err := work()
	if err != nil {
		return nil, err
	}
	after, err := used()
	return measure.Result{"events/s": n / took.Seconds(), "CPU µs": float64((after - before).Microseconds()) / n}, err
}

func (b *bench) consumeIn(ctx context.Context, pool *pgxpool.Pool, reset bool) (measure.Result, error) {
	sql := `truncate effects`
	if reset {
		sql += `, msg.processed_events`
	}
	if _, err := pool.Exec(ctx, sql); err != nil {
		return nil, err
	}
	topic, drop, err := b.fill(ctx, b.o.Consume)
	if err != nil {
		return nil, err
	}
	defer drop()
	var p progress
	c, err := b.consumer(pool, nil, topic, func(_ context.Context, tx *outbox.Tx, e event.Event, data placed) error {
		p.handled()
		tx.Queue(sqlEffect, [16]byte(e.ID), [16]byte(data.OrderID), data.Note)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b.costs(func() (float64, time.Duration, error) {
		stop := background(ctx, c.Run)
		result, err := p.rate(ctx, pool, b.o.Consume)
		if stopErr := stop(); err == nil {
			err = stopErr
		}
		n := float64(b.o.Consume)
		return n, time.Duration(n / result["msg/s"] * float64(time.Second)), err
	})
}

func (b *bench) commitIn(ctx context.Context, pool *pgxpool.Pool) (measure.Result, error) {
	if _, err := pool.Exec(ctx, `truncate orders, order_items`); err != nil {
		return nil, err
	}
	db := outbox.NewDB(pool, nil)
	return b.costs(func() (float64, time.Duration, error) {
		result, err := b.commits(ctx, func(ctx context.Context, i int) error { return placeOurs(ctx, db, order, i, true) })
		// The warm-up's commits are in the costs too.
		n := result["commits/s"] * (b.o.Commit + b.o.Commit/5).Seconds()
		return n, b.o.Commit + b.o.Commit/5, err
	})
}

// relayIn publishes a backlog.
func (b *bench) relayIn(ctx context.Context, backlog int) (measure.Result, error) {
	pool, closePool, err := b.database(ctx, 10)
	if err != nil {
		return nil, err
	}
	defer closePool()
	topic, drop, err := b.topic(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := b.fillOutbox(ctx, pool, topic, backlog); err != nil {
		return nil, err
	}
	client, err := kafka.NewClient(b.Kafka, "bench", b.log, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	relay := outbox.NewRelay(outbox.NewDB(pool, nil), client, outbox.RelayConfig{}, b.log, nil)
	return b.costs(func() (float64, time.Duration, error) {
		began := time.Now()
		stop := background(ctx, relay.Run)
		n := 0
		err := measure.Until(ctx, func() (_ bool, err error) {
			n, err = b.written(ctx, topic)
			return n >= backlog, err
		})
		took := time.Since(began)
		if stopErr := stop(); err == nil {
			err = stopErr
		}
		return float64(n), took, err
	})
}
