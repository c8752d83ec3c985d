//go:build unix

package messaging

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

const consumers = 16 // connections of the pool that handlers share

// consume measures how fast a topic is turned into effects, one insert per
// message and each exactly once: from the first message that a handler gets to
// the last effect that is committed.
func (b *bench) consume(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	queued := func(_ context.Context, tx *outbox.Tx, e event.Event, p placed) error {
		tx.Queue(sqlEffect, [16]byte(e.ID), [16]byte(p.OrderID), p.Note)
		return nil
	}
	roundTrip := func(ctx context.Context, tx *outbox.Tx, e event.Event, p placed) error {
		_, err := tx.Exec(ctx, sqlEffect, [16]byte(e.ID), [16]byte(p.OrderID), p.Note)
		return err
	}
	cases := []measure.Case{
		{Name: "Tiffin, write queued", Run: func(ctx context.Context) (measure.Result, error) { return b.consumeOurs(ctx, queued) }},
		{Name: "Tiffin, round trip in the handler", Run: func(ctx context.Context) (measure.Result, error) { return b.consumeOurs(ctx, roundTrip) }},
		{Name: "Watermill, default", Run: func(ctx context.Context) (measure.Result, error) { return b.consumeWatermill(ctx, false) }},
		{Name: "Watermill, tuned", Run: func(ctx context.Context) (measure.Result, error) { return b.consumeWatermill(ctx, true) }},
	}
	s, err := measure.Rounds(ctx, b.o.Rounds, cases, say)
	if err != nil {
		return err
	}
	best := s.Best("msg/s", false, "Watermill, default", "Watermill, tuned")
	t := measure.Table{
		Title:  fmt.Sprintf("Consume with one insert per message, exactly-once effects: %d messages (Watermill: %d)", b.o.Consume, b.o.ConsumeOther),
		Header: []string{"", "msg/s", "to Watermill's best"},
	}
	rows(&t, s, "msg/s", best, cases)
	t.Print(out)
	return nil
}

// fill writes n events to a new topic.
func (b *bench) fill(ctx context.Context, n int) (string, func(), error) {
	topic, drop, err := b.topic(ctx)
	if err != nil {
		return "", nil, err
	}
	client, err := kafka.NewClient(b.Kafka, "bench", b.log, nil)
	if err != nil {
		return "", drop, err
	}
	defer client.Close()
	var failed atomic.Pointer[error]
	for i := range n {
		client.Produce(ctx, record(newEvent(topic, i)), func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return "", drop, err
	}
	if err := failed.Load(); err != nil {
		return "", drop, *err
	}
	return topic, drop, nil
}

// progress counts handled messages and knows when the first one came.
type progress struct {
	first atomic.Int64
	calls atomic.Int64
}

func (p *progress) handled() {
	if p.calls.Add(1) == 1 {
		p.first.Store(time.Now().UnixNano())
	}
}

// rate waits for n effects.
func (p *progress) rate(ctx context.Context, pool *pgxpool.Pool, n int) (measure.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var done time.Time
	err := measure.Until(ctx, func() (bool, error) {
		if p.calls.Load() < int64(n) {
			return false, nil
		}
		var effects int
		done = time.Now()
		err := pool.QueryRow(ctx, `select count(*) from effects`).Scan(&effects)
		return effects == n, err
	})
	return measure.Result{"msg/s": float64(n) / done.Sub(time.Unix(0, p.first.Load())).Seconds()}, err
}

func (b *bench) consumeOurs(ctx context.Context, apply func(context.Context, *outbox.Tx, event.Event, placed) error) (measure.Result, error) {
	topic, drop, err := b.fill(ctx, b.o.Consume)
	if err != nil {
		return nil, err
	}
	defer drop()
	pool, closePool, err := b.database(ctx, consumers)
	if err != nil {
		return nil, err
	}
	defer closePool()
	var p progress
	counted := func(ctx context.Context, tx *outbox.Tx, e event.Event, data placed) error {
		p.handled()
		return apply(ctx, tx, e, data)
	}
	c, err := b.consumer(pool, nil, topic, counted)
	if err != nil {
		return nil, err
	}
	stop := background(ctx, c.Run)
	result, err := p.rate(ctx, pool, b.o.Consume)
	if stopErr := stop(); err == nil {
		err = stopErr
	}
	return result, err
}

func (b *bench) consumer(pool *pgxpool.Pool, db *outbox.DB, topic string, apply func(context.Context, *outbox.Tx, event.Event, placed) error) (*kafka.Consumer, error) {
	if db == nil {
		db = outbox.NewDB(pool, nil)
	}
	group := b.Name("bench")
	return kafka.NewConsumer(b.Kafka, kafka.ConsumerConfig{Group: group, DLQ: group + ".dlq"}, db, b.log, nil, kafka.On(1, topic, apply))
}

func (b *bench) consumeWatermill(ctx context.Context, tuned bool) (measure.Result, error) {
	topic, drop, err := b.fill(ctx, b.o.ConsumeOther)
	if err != nil {
		return nil, err
	}
	defer drop()
	pool, closePool, err := b.theirs(ctx, consumers)
	if err != nil {
		return nil, err
	}
	defer closePool()
	var p progress
	handle, done := watermillHandler(pool, tuned, func(*placed) { p.handled() }, func(*placed) {})
	defer done()
	stop := background(ctx, func(ctx context.Context) error { return b.receive(ctx, tuned, topic, b.Name("bench"), handle) })
	result, err := p.rate(ctx, pool, b.o.ConsumeOther)
	if stopErr := stop(); err == nil {
		err = stopErr
	}
	return result, err
}

// watermillHandler is the same handler for Watermill. before is called with
// each message, after when its effect is committed.
func watermillHandler(pool *pgxpool.Pool, tuned bool, before, after func(*placed)) (message.NoPublishHandlerFunc, func()) {
	db := stdlib.OpenDBFromPool(pool)
	db.SetMaxIdleConns(consumers)
	return func(m *message.Message) error {
		var p placed
		if err := json.Unmarshal(m.Payload, &p); err != nil {
			return err
		}
		before(&p)
		id := m.UUID
		if id == "" {
			id = m.Metadata.Get(event.HeaderID) // written by our producer
		}
		if _, err := uuid.Parse(id); err != nil {
			return err
		}
		var err error
		if tuned {
			err = applyPipelined(m.Context(), pool, id, p)
		} else {
			err = applyStd(m.Context(), db, id, p)
		}
		if err != nil {
			// Watermill hides it and tries again for ever.
			_, _ = fmt.Fprintln(os.Stderr, "watermill's handler: "+err.Error())
			return err
		}
		after(&p)
		return nil
	}, func() { _ = db.Close() }
}
