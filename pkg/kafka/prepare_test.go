package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

type prepareFunc = func(ctx context.Context, e event.Event, p event.OrderCancelled) (string, error)

// prepared returns a subscription that writes what prepare returns.
func prepared(prepare prepareFunc) kafka.Subscription {
	return kafka.OnPrepared(number, topic, prepare,
		func(_ context.Context, tx *outbox.Tx, e event.Event, _ event.OrderCancelled, note string) error {
			effect(tx, e, note)
			return nil
		})
}

// Records of one batch go on without the one whose Prepare fails, and none of
// them is prepared twice.
func TestPrepareErrorIsolatesOneRecord(t *testing.T) {
	r := setupOnePartition(t)
	bad := uuid.New()
	var calls atomic.Int64
	var ids []uuid.UUID
	var records []*kgo.Record
	for i := range 20 {
		ids = append(ids, uuid.New())
		if i == 10 {
			ids[i] = bad
		}
		records = append(records, record(order(ids[i], "ok")))
	}
	r.produceRecords(records...)
	r.consume(prepared(func(_ context.Context, _ event.Event, p event.OrderCancelled) (string, error) {
		if p.OrderID == bad {
			return "", errors.New("provider says no")
		}
		calls.Add(1)
		return p.Reason, nil
	}))
	r.eventually("the others have their effect", func() bool { return r.count(`select count(*) from effects`) == 19 })
	r.eventually("the bad one is dead", func() bool { return r.count(`select count(*) from msg.dead_letters where attempts = 4`) == 1 })
	require.EqualValues(t, 19, calls.Load())
	for _, id := range ids {
		if id != bad {
			require.Equal(t, []string{"ok"}, r.notes(id))
		}
	}
}

// Distinct keys are prepared at once; one key is prepared again only when what
// came before it is committed.
func TestPrepareIsConcurrentAcrossKeysAndOrderedWithinOne(t *testing.T) {
	r := setupOnePartition(t)
	var mu sync.Mutex
	var running, most int
	sub := prepared(func(ctx context.Context, e event.Event, p event.OrderCancelled) (string, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() {
			mu.Lock()
			running--
			mu.Unlock()
		}()
		timer := time.NewTimer(20 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		// How many of the key are committed by now.
		var n int
		err := r.pool.QueryRow(ctx, `select count(*) from effects where key = $1`, e.Subject).Scan(&n)
		return fmt.Sprint(n), err
	})
	ids := make([]uuid.UUID, 24)
	var records []*kgo.Record
	for i := range ids {
		ids[i] = uuid.New()
	}
	for range 3 {
		for _, id := range ids {
			records = append(records, record(order(id, "x")))
		}
	}
	r.produceRecords(records...)
	r.consume(sub)
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 72 })
	for _, id := range ids {
		require.Equal(t, names(3, ""), r.notes(id))
	}
	require.Greater(t, most, 4)
}

// While a key waits its events are not prepared; then they are, one by one.
func TestFollowersArePreparedInTheirTurn(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	var mu sync.Mutex
	var calls []string
	var tries atomic.Int64
	sub := prepared(func(_ context.Context, _ event.Event, p event.OrderCancelled) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, p.Reason)
		if p.Reason == "n0" && tries.Add(1) <= 2 {
			return "", errors.New("not yet")
		}
		return p.Reason, nil
	})
	r.consume(sub)
	for _, n := range names(5, "n") {
		r.produce(order(id, n))
	}
	r.eventually("all have their effect", func() bool { return len(r.notes(id)) == 5 })
	require.Equal(t, names(5, "n"), r.notes(id))
	require.Equal(t, []string{"n0", "n0", "n0", "n1", "n2", "n3", "n4"}, calls)
}

func TestPrepareHasADeadline(t *testing.T) {
	r := setup(t)
	r.cc.PrepareTimeout = 20 * time.Millisecond
	id := uuid.New()
	var tries atomic.Int64
	r.consume(prepared(func(ctx context.Context, _ event.Event, _ event.OrderCancelled) (string, error) {
		if tries.Add(1) == 1 {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "second", nil
	}))
	r.produce(order(id, "x"))
	r.eventually("it succeeds", func() bool { return slices.Equal(r.notes(id), []string{"second"}) })
	require.EqualValues(t, 1, r.size(kafka.RetryTopic(group, 1)))
}

// A process that ends during Prepare has not made an attempt; the next one
// calls Prepare again.
func TestShutdownDuringPrepareIsNotCounted(t *testing.T) {
	r := setup(t)
	r.cc.ShutdownTimeout = 30 * time.Millisecond
	id, entered := uuid.New(), make(chan struct{}, 1)
	stop := r.consume(prepared(func(ctx context.Context, _ event.Event, _ event.OrderCancelled) (string, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return "", ctx.Err()
	}))
	r.produce(order(id, "x"))
	<-entered
	stop()
	require.Zero(t, r.count(`select count(*) from msg.processed_events`))
	r.consume(prepared(func(context.Context, event.Event, event.OrderCancelled) (string, error) { return "again", nil }))
	r.eventually("it is made again", func() bool { return slices.Equal(r.notes(id), []string{"again"}) })
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

// When the database goes away during Prepare, nothing can be recorded, and what
// Prepare said is not held against the event.
func TestPrepareDuringAnOutageIsNotCounted(t *testing.T) {
	r, w := throughWire(t)
	r.relay()
	id := uuid.New()
	var calls atomic.Int64
	r.consume(prepared(func(ctx context.Context, _ event.Event, _ event.OrderCancelled) (string, error) {
		if calls.Add(1) == 1 {
			w.cut()
			var n int
			return "", r.db.Pool.QueryRow(ctx, `select 1`).Scan(&n)
		}
		return "after", nil
	}))
	r.produce(order(id, "x"))
	r.eventually("consuming stops", func() bool { return r.metric("tiffin_consumer_database_down", nil) == 1 })
	w.mend()
	r.eventually("it succeeds", func() bool { return slices.Equal(r.notes(id), []string{"after"}) })
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}
