//go:build unix

package messaging

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// perTransaction is how many events one transaction of a backlog holds: the
// writing is not what is measured.
const perTransaction = 50

// relay measures how fast a backlog gets from the outbox to Kafka: from the
// start of the relay to the last record in the topic.
func (b *bench) relay(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	cases := []measure.Case{
		{Name: "Tiffin", Run: func(ctx context.Context) (measure.Result, error) { return b.relayOurs(ctx, outbox.RelayConfig{}) }},
		{Name: "Tiffin, batches of 5000", Run: func(ctx context.Context) (measure.Result, error) {
			return b.relayOurs(ctx, outbox.RelayConfig{Batch: 5000})
		}},
	}
	for _, w := range watermills {
		cases = append(cases, measure.Case{Name: w.name, Run: func(ctx context.Context) (measure.Result, error) { return b.relayWatermill(ctx, w) }})
	}
	s, err := measure.Rounds(ctx, b.o.Rounds, cases, say)
	if err != nil {
		return err
	}
	best := s.Best("events/s", false, watermills[0].name, watermills[1].name, watermills[2].name)
	t := measure.Table{Title: "Relay: a backlog of " + measure.Number(float64(b.o.Backlog)) + " events", Header: []string{"", "events/s", "to Watermill's best"}}
	rows(&t, s, "events/s", best, cases)
	t.Print(out)
	return nil
}

func (b *bench) relayOurs(ctx context.Context, cfg outbox.RelayConfig) (measure.Result, error) {
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
	bell := postgres.NewDoorbell(pool, b.log)
	db := outbox.NewDB(pool, bell)
	err = inChunks(ctx, b.o.Backlog, func(from, to int) error {
		return db.InTx(ctx, func(tx *outbox.Tx) error {
			for i := from; i < to; i++ {
				tx.Emit(ctx, newEvent(topic, i))
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	client, err := kafka.NewClient(b.Kafka, "bench", b.log, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	relay := outbox.NewRelay(db, client, cfg, b.log, nil)
	stopBell := background(ctx, bell.Run)
	defer func() { _ = stopBell() }()
	return b.drain(ctx, pool, topic, relay.Run)
}

// drain runs a relay until the topic holds the backlog.
func (b *bench) drain(ctx context.Context, pool *pgxpool.Pool, topic string, run func(context.Context) error) (measure.Result, error) {
	// As after hours of writing: the planner knows the tables, and what was
	// written is on disk.
	for _, sql := range []string{`vacuum analyze`, `checkpoint`} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	began := time.Now()
	stop := background(ctx, run)
	err := measure.Until(ctx, func() (bool, error) {
		n, err := b.written(ctx, topic)
		return n >= b.o.Backlog, err
	})
	took := time.Since(began)
	if stopErr := stop(); err == nil {
		err = stopErr
	}
	if err == nil {
		// Nothing failed, so nothing may have been sent twice.
		var n int
		if n, err = b.written(ctx, topic); err == nil && n != b.o.Backlog {
			err = fmt.Errorf("%d records of %d events", n, b.o.Backlog)
		}
	}
	return measure.Result{"events/s": float64(b.o.Backlog) / took.Seconds()}, err
}

// inChunks calls write for consecutive ranges, four at a time.
func inChunks(ctx context.Context, n int, write func(from, to int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for from := 0; from < n && ctx.Err() == nil; from += perTransaction {
		g.Go(func() error { return write(from, min(n, from+perTransaction)) })
	}
	return g.Wait()
}
