//go:build unix

package messaging

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	sqlPlace = `insert into orders (id, customer, total) values ($1, $2, 1780) returning placed_at`
	sqlItems = `insert into order_items (order_id, line, dish, price) select $1, i, 'thali', 890 from generate_series(1, 2) i`
)

// commit measures what an outbox row adds to a business transaction that
// inserts an order and its items: transactions per second, closed loop.
func (b *bench) commit(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	ours := func(emit, relay bool) func(context.Context) (measure.Result, error) {
		return func(ctx context.Context) (measure.Result, error) { return b.commitOurs(ctx, emit, relay) }
	}
	other := func(emit bool) func(context.Context) (measure.Result, error) {
		return func(ctx context.Context) (measure.Result, error) { return b.commitWatermill(ctx, emit) }
	}
	cases := []measure.Case{
		{Name: "Tiffin, no event", Run: ours(false, false)},
		{Name: "Tiffin, one event", Run: ours(true, false)},
		{Name: "Tiffin, one event, relay at work beside it", Run: ours(true, true)},
		{Name: "Watermill, no event", Run: other(false)},
		{Name: "Watermill, one event", Run: other(true)},
	}
	s, err := measure.Rounds(ctx, b.o.Rounds, cases, say)
	if err != nil {
		return err
	}
	t := measure.Table{
		Title:  fmt.Sprintf("A business commit with and without an event, %d writers", b.o.Writers),
		Header: []string{"", "commits/s", "of the same without"},
	}
	for i, c := range cases {
		base := cases[0].Name
		if i >= 3 {
			base = cases[3].Name
		}
		t.Add(c.Name, measure.Spread(s[c.Name]["commits/s"]),
			fmt.Sprintf("%.0f %%", 100*s.Median(c.Name, "commits/s")/s.Median(base, "commits/s")))
	}
	t.Print(out)
	return nil
}

// commits runs write from all writers for the time of a run, after a short
// warm-up.
func (b *bench) commits(ctx context.Context, write func(ctx context.Context, i int) error) (measure.Result, error) {
	var n atomic.Int64
	run := func(d time.Duration) error {
		end := time.Now().Add(d)
		g, ctx := errgroup.WithContext(ctx)
		for range b.o.Writers {
			g.Go(func() error {
				for time.Now().Before(end) {
					if err := write(ctx, int(n.Add(1))); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	}
	if err := run(b.o.Commit / 5); err != nil {
		return nil, err
	}
	before, began := n.Load(), time.Now()
	err := run(b.o.Commit)
	return measure.Result{"commits/s": float64(n.Load()-before) / time.Since(began).Seconds()}, err
}

func (b *bench) commitOurs(ctx context.Context, emit, relay bool) (measure.Result, error) {
	pool, closePool, err := b.database(ctx, b.o.Writers)
	if err != nil {
		return nil, err
	}
	defer closePool()
	topic, drop, err := b.topic(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	bell := postgres.NewDoorbell(pool, b.log)
	db := outbox.NewDB(pool, bell)
	if relay {
		client, err := kafka.NewClient(b.Kafka, "bench", b.log, nil)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		for _, run := range []func(context.Context) error{bell.Run, outbox.NewRelay(db, client, outbox.RelayConfig{}, b.log, nil).Run} {
			stop := background(ctx, run)
			defer func() { _ = stop() }()
		}
	}
	return b.commits(ctx, func(ctx context.Context, i int) error { return placeOurs(ctx, db, topic, i, emit) })
}

func placeOurs(ctx context.Context, db *outbox.DB, topic string, i int, emit bool) error {
	e := newEvent(topic, i)
	return db.InTx(ctx, func(tx *outbox.Tx) error {
		var at time.Time
		if err := tx.QueryRow(ctx, sqlPlace, [16]byte(e.ID), [16]byte(uuid.Max)).Scan(&at); err != nil {
			return err
		}
		tx.Queue(sqlItems, [16]byte(e.ID))
		if emit {
			tx.Emit(ctx, e)
		}
		return nil
	})
}

func (b *bench) commitWatermill(ctx context.Context, emit bool) (measure.Result, error) {
	w := watermills[1]
	pool, closePool, err := b.theirs(ctx, b.o.Writers)
	if err != nil {
		return nil, err
	}
	defer closePool()
	if err := w.prepare(ctx, pool); err != nil {
		return nil, err
	}
	return b.commits(ctx, func(ctx context.Context, i int) error { return placeWatermill(ctx, pool, w, i, emit) })
}

func placeWatermill(ctx context.Context, pool *pgxpool.Pool, w watermillSetup, i int, emit bool) error {
	e := newEvent(order, i)
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var at time.Time
		if err := tx.QueryRow(ctx, sqlPlace, e.ID, uuid.Max).Scan(&at); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, sqlItems, e.ID); err != nil {
			return err
		}
		if !emit {
			return nil
		}
		return w.emit(ctx, wmsql.TxFromPgx(tx), order, e)
	})
}
