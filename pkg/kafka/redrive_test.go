package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestRedrivenLetterIsHandledOnce(t *testing.T) {
	r := setup(t)
	var broken atomic.Bool
	broken.Store(true)
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if broken.Load() {
			return kafka.Permanent(errors.New("a defect"))
		}
		return apply(ctx, tx, e, p)
	}))
	store := deadletter.NewStore(r.db, group)
	by := deadletter.Command{Actor: "ada"}
	status := func(s deadletter.Status) func() bool {
		return func() bool { return r.count(`select count(*) from msg.dead_letters where status = $1`, string(s)) == 5 }
	}
	redrive := func() {
		t.Helper()
		n, err := store.Redrive(t.Context(), by)
		require.NoError(t, err)
		require.Equal(t, 5, n)
	}
	var ids []uuid.UUID
	for i := range 5 {
		ids = append(ids, uuid.New())
		r.produce(order(ids[i], fmt.Sprint(i)))
	}
	r.eventually("all are dead", status(deadletter.Dead))

	redrive() // too early
	r.eventually("all died again", func() bool {
		return r.count(`select count(*) from msg.dead_letters where status = 'dead' and redrives = 1 and attempts = 2`) == 5
	})
	broken.Store(false)
	redrive()
	r.eventually("all are resolved", status(deadletter.Resolved))
	for i, id := range ids {
		require.Equal(t, []string{fmt.Sprint(i)}, r.notes(id))
	}
	n, err := store.Redrive(t.Context(), by)
	require.NoError(t, err)
	require.Zero(t, n)

	// The same redrive delivered again, as Kafka may do.
	for _, rec := range r.read(kafka.RetryTopic(group, 1), 10) {
		rec.Offset, rec.Partition = 0, 0
		r.produceRecords(rec)
	}
	r.eventually("they are duplicates", func() bool { return r.results("duplicate") == 10 })
	for _, id := range ids {
		require.Len(t, r.notes(id), 1)
	}
}

// A redriven event that fails waits and parks its key like any other.
func TestRedrivenLetterIsRetried(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	var tries atomic.Int64
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if tries.Add(1) <= 6 { // 4 of the first round, 2 of the redrive
			return errors.New("not yet")
		}
		return apply(ctx, tx, e, p)
	}))
	r.produce(order(id, "x"))
	r.eventually("it is dead", func() bool { return r.count(`select count(*) from msg.dead_letters where status = 'dead'`) == 1 })
	_, err := deadletter.NewStore(r.db, group).Redrive(t.Context(), deadletter.Command{Actor: "ada"})
	require.NoError(t, err)
	r.eventually("it takes effect", func() bool { return len(r.notes(id)) == 1 })
	require.Equal(t, 1, r.count(`select count(*) from msg.dead_letters where status = 'resolved' and redrives = 1`))
	require.Zero(t, r.count(`select count(*) from msg.parked_keys`))
}

// The trace of the transaction that emitted an event goes on in what its
// handler emits, whether this process records traces or not.
func TestTraceContinues(t *testing.T) {
	r := setup(t)
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	out := event.TypeOrderStatusChanged
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, out))
	seen := make(chan trace.TraceID, 1)
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		seen <- trace.SpanContextFromContext(ctx).TraceID()
		tx.Emit(ctx, event.New("test", event.OrderStatusChanged{OrderID: p.OrderID}))
		return nil
	}))
	e := order(uuid.New(), "traced")
	e.Traceparent = "00-" + traceID + "-00f067aa0ba902b7-01"
	r.produce(e)
	require.Equal(t, traceID, (<-seen).String())
	require.Contains(t, header(r.read(out, 1)[0], "traceparent"), traceID)
}
