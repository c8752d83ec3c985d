//go:build unix

package messaging

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const sqlOrder = `insert into orders (id, customer, total) values ($1, $2, 1780)`

// flight times one run's events, by their number.
type flight struct {
	due     []time.Time
	handler []atomic.Int64 // when the handler got it, as an offset from began
	done    []atomic.Int64 // when its effect was committed
	missing sync.WaitGroup
	began   time.Time
}

func newFlight(n int) *flight {
	f := &flight{due: make([]time.Time, n), handler: make([]atomic.Int64, n), done: make([]atomic.Int64, n), began: time.Now()}
	f.missing.Add(n)
	return f
}

func (f *flight) reached(i int) { f.handler[i].CompareAndSwap(0, int64(time.Since(f.began))) }

func (f *flight) finished(i int) {
	if f.done[i].CompareAndSwap(0, int64(time.Since(f.began))) {
		f.missing.Done()
	}
}

// lost gives up what has not arrived, and nothing that is still to come.
func (f *flight) lost() {
	for i := range f.done {
		if f.done[i].CompareAndSwap(0, never) {
			f.missing.Done()
		}
	}
}

const never = -1

// result leaves out the first second: connections, plans and caches are made in it.
func (f *flight) result(warm int) measure.Result {
	var handler, done measure.Latencies
	lost := 0
	for i := warm; i < len(f.due); i++ {
		if f.done[i].Load() == never {
			lost++
			continue
		}
		due := f.due[i].Sub(f.began)
		handler.Add(time.Duration(f.handler[i].Load()) - due)
		done.Add(time.Duration(f.done[i].Load()) - due)
	}
	return measure.Result{
		"handler p50": handler.Quantile(0.5), "handler p99": handler.Quantile(0.99),
		"p50": done.Quantile(0.5), "p99": done.Quantile(0.99), "lost": float64(lost),
	}
}

// latency measures how long an event takes from the moment its writing
// transaction was due to begin until its effect is committed, at a fixed rate.
func (b *bench) latency(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	cases := []measure.Case{{Name: "Tiffin", Run: b.latencyOurs}}
	for _, w := range watermills {
		cases = append(cases, measure.Case{Name: w.name, Run: func(ctx context.Context) (measure.Result, error) { return b.latencyWatermill(ctx, w) }})
	}
	s, err := measure.Rounds(ctx, b.o.Rounds, cases, say)
	if err != nil {
		return err
	}
	t := measure.Table{
		Title:  fmt.Sprintf("From the begin of the writing transaction at %s events/s, open loop, ms", measure.Number(b.o.Rate)),
		Header: []string{"", "in the handler p50", "p99", "effect committed p50", "p99", "p99 to Tiffin's", "not there after a minute"},
	}
	for _, c := range cases {
		t.Add(c.Name, measure.Number(s.Median(c.Name, "handler p50")), measure.Number(s.Median(c.Name, "handler p99")),
			measure.Number(s.Median(c.Name, "p50")), measure.Spread(s[c.Name]["p99"]), measure.Ratio(s.Median(c.Name, "p99")/s.Median("Tiffin", "p99")),
			measure.Number(slices.Max(s[c.Name]["lost"])))
	}
	t.Print(out)
	return nil
}

func (b *bench) latencyOurs(ctx context.Context) (measure.Result, error) {
	pool, closePool, err := b.database(ctx, 2*consumers)
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
	client, err := kafka.NewClient(b.Kafka, "bench", b.log, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	n := b.events()
	f := newFlight(n)
	c, err := b.consumer(pool, db, topic, func(_ context.Context, tx *outbox.Tx, e event.Event, p placed) error {
		f.reached(p.Seq)
		tx.Queue(sqlEffect, [16]byte(e.ID), [16]byte(p.OrderID), p.Note)
		tx.Ring(e.ID.String()) // after COMMIT: how the run learns of it
		return nil
	})
	if err != nil {
		return nil, err
	}
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{}, b.log, nil)
	for _, run := range []func(context.Context) error{bell.Run, relay.Run, c.Run} {
		stop := background(ctx, run)
		defer func() { _ = stop() }()
	}
	return b.fly(ctx, f, func(i int) error {
		e := newEvent(topic, i)
		committed, stop := bell.Subscribe(e.ID.String())
		err := db.InTx(ctx, func(tx *outbox.Tx) error {
			tx.Queue(sqlOrder, [16]byte(e.ID), [16]byte(uuid.Max))
			tx.Emit(ctx, e)
			return nil
		})
		if err != nil {
			stop()
			return err
		}
		defer stop()
		select {
		case <-ctx.Done():
		case <-committed:
			f.finished(i)
		}
		return nil
	})
}

func (b *bench) latencyWatermill(ctx context.Context, w watermillSetup) (measure.Result, error) {
	pool, closePool, err := b.theirs(ctx, 2*consumers+w.lanes)
	if err != nil {
		return nil, err
	}
	defer closePool()
	topic, drop, err := b.topic(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := w.prepare(ctx, pool); err != nil {
		return nil, err
	}
	f := newFlight(b.events())
	handle, done := watermillHandler(pool, w.tuned, func(p *placed) { f.reached(p.Seq) }, func(p *placed) { f.finished(p.Seq) })
	defer done()
	for _, run := range []func(context.Context) error{
		func(ctx context.Context) error { return b.forward(ctx, w, pool) },
		func(ctx context.Context) error { return b.receive(ctx, w.tuned, topic, b.Name("bench"), handle) },
	} {
		stop := background(ctx, run)
		defer func() { _ = stop() }()
	}
	return b.fly(ctx, f, func(i int) error {
		e := newEvent(topic, i)
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, sqlOrder, e.ID, uuid.Max); err != nil {
				return err
			}
			return w.emit(ctx, wmsql.TxFromPgx(tx), topic, e)
		})
	})
}

// warm is how long events flow before they are measured.
const warm = 2 * time.Second

func (b *bench) events() int { return int((b.o.Latency + warm).Seconds() * b.o.Rate) }

// fly writes the events at the rate and waits until all have arrived.
func (b *bench) fly(ctx context.Context, f *flight, write func(i int) error) (measure.Result, error) {
	// Consumers join their group and relays take the lead; a group that is
	// joined while events flow is not what is measured.
	if err := measure.Wait(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	var failed atomic.Pointer[error]
	var writing sync.WaitGroup
	writing.Add(len(f.due))
	measure.Pace(ctx, b.o.Rate, len(f.due), func(i int, due time.Time) {
		defer writing.Done()
		f.due[i] = due
		if err := write(i); err != nil {
			failed.Store(&err)
		}
	})
	arrived := make(chan struct{})
	go func() {
		writing.Wait()
		if failed.Load() == nil {
			f.missing.Wait()
		}
		close(arrived)
	}()
	select {
	case <-arrived:
		if err := failed.Load(); err != nil {
			return nil, *err
		}
		return f.result(int(warm.Seconds() * b.o.Rate)), nil
	case <-time.After(time.Minute):
		f.lost()
		<-arrived
		return f.result(int(warm.Seconds() * b.o.Rate)), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
