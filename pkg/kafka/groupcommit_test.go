package kafka_test

import (
	"context"
	"errors"
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

// behind runs a consumer whose first transaction does not end before release is
// called, produces events for several partitions, and returns on how many
// others they are.
func (r *rig) behind(patience, linger time.Duration, apply func(context.Context, *outbox.Tx, event.Event, event.OrderCancelled) error, notes ...string) (c *kafka.Consumer, partitions int, release func()) {
	r.t.Helper()
	sub := kafka.On(number, topic, apply)
	sub.Linger = linger
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, nil, sub)
	require.NoError(r.t, err)
	c.GroupPatience(patience)
	held, free := make(chan struct{}), make(chan struct{})
	var begun atomic.Bool
	c.At(func(point, _ string) {
		if point == "before commit" && begun.CompareAndSwap(false, true) {
			close(held)
			<-free
		}
	})
	release = sync.OnceFunc(func() { close(free) })
	r.t.Cleanup(release) // before the consumer is stopped
	first := record(order(uuid.New(), "first"))
	r.produceRecords(first)
	r.background(c.Run)
	r.t.Cleanup(release)
	select {
	case <-held:
	case <-time.After(waitFor):
		require.FailNow(r.t, "nothing is committed")
	}
	return c, r.produceBeside(first, notes...), release
}

// produceBeside produces an event for each note and returns on how many
// partitions they are, but for first's.
func (r *rig) produceBeside(first *kgo.Record, notes ...string) (partitions int) {
	r.t.Helper()
	used := map[int32]bool{}
	var records []*kgo.Record
	for _, note := range notes {
		records = append(records, record(order(uuid.New(), note)))
	}
	r.produceRecords(records...)
	for _, rec := range records {
		used[rec.Partition] = true
	}
	delete(used, first.Partition)
	return len(used)
}

// Batches of many partitions that come while a transaction runs share the next.
func TestSmallBatchesShareATransaction(t *testing.T) {
	r := setupPartitions(t, 12)
	c, partitions, release := r.behind(waitFor, 0, apply, names(30, "")...)
	require.Greater(t, partitions, 3)
	r.eventually("all wait", func() bool { return c.GroupWaiting() == partitions })
	require.Zero(t, r.count(`select count(*) from effects`))
	release()
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 31 })
	require.Equal(t, 31, r.count(`select count(distinct event_id) from effects`))
	// Whatever waited is in one of them.
	require.GreaterOrEqual(t, r.count(`select max(n) from (select count(*) as n from effects group by xmin::text) t`), partitions)
}

// What is shared is no larger than one batch may be.
func TestBatchesThatAreTooLargeTogetherDoNotShareATransaction(t *testing.T) {
	r := setupPartitions(t, 12)
	r.cc.BatchBytes = 1 // so that every batch is one record
	c, partitions, release := r.behind(waitFor, 0, apply, names(30, "")...)
	r.eventually("all wait", func() bool { return c.GroupWaiting() == partitions })
	release()
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 31 })
	require.Equal(t, 31, r.count(`select count(distinct xmin::text) from effects`))
}

// A batch that lingers takes those along that come meanwhile.
func TestABatchLingersForOthers(t *testing.T) {
	r := setupPartitions(t, 12)
	taken := make(chan struct{}, 100)
	sub := kafka.OnPrepared(number, topic,
		func(context.Context, event.Event, event.OrderCancelled) (bool, error) {
			taken <- struct{}{}
			return true, nil
		},
		func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled, _ bool) error {
			return apply(ctx, tx, e, p)
		})
	sub.Linger = 4 * time.Second
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, nil, sub)
	require.NoError(t, err)
	c.GroupPatience(waitFor)
	r.background(c.Run)
	first := record(order(uuid.New(), "first"))
	r.produceRecords(first)
	select {
	case <-taken:
	case <-time.After(waitFor):
		require.FailNow(t, "nothing is consumed")
	}
	partitions := 1 + r.produceBeside(first, names(30, "")...)
	require.Greater(t, partitions, 3)
	r.eventually("the first has its effect", func() bool { return r.count(`select count(*) from effects where note = 'first'`) == 1 })
	require.GreaterOrEqual(t, r.count(`select count(*) from effects where xmin::text = (select xmin::text from effects where note = 'first')`), partitions)
}

// slow returns a subscription that lingers for longer than any test, and an event
// of it.
func slow() (kafka.Subscription, event.Event) {
	sub := kafka.On(number+1, event.TypePaymentFailed, func(_ context.Context, tx *outbox.Tx, e event.Event, _ event.PaymentFailed) error {
		tx.Queue(`insert into effects (event_id, key, note) values ($1, $2, 'slow')`, e.ID, e.Subject)
		return nil
	})
	sub.Linger = waitFor
	return sub, event.New("test", event.PaymentFailed{OrderID: uuid.New(), PaymentID: uuid.New(), CustomerID: uuid.New()})
}

// beside consumes with sub and a subscription that does not linger, and produces
// first for sub.
func (r *rig) beside(sub kafka.Subscription, first event.Event) *kafka.Consumer {
	r.t.Helper()
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, nil, sub, kafka.On(number, topic, apply))
	require.NoError(r.t, err)
	c.GroupPatience(waitFor)
	r.background(c.Run)
	require.NoError(r.t, kafka.EnsureTopics(r.t.Context(), r.client, r.cfg, first.Type))
	r.produce(first)
	return c
}

// A batch that lingers goes with the next that is due, of whatever topic.
func TestABatchThatLingersGoesWithTheNextThatIsDue(t *testing.T) {
	r := setupPartitions(t, 12)
	sub, first := slow()
	c := r.beside(sub, first)
	r.eventually("one waits behind another", func() bool {
		_, next := slow()
		r.produce(next)
		return c.GroupWaiting() > 0
	})
	require.Zero(t, r.count(`select count(*) from effects`))
	r.produce(order(uuid.New(), "quick"))
	r.eventually("the quick one has its effect", func() bool { return r.count(`select count(*) from effects where note = 'quick'`) == 1 })
	require.GreaterOrEqual(t, r.count(`select count(*) from effects
		where note = 'slow' and xmin::text = (select xmin::text from effects where note = 'quick')`), 2)
}

// What goes outside, and may take its time, shares nothing with what only writes.
func TestBatchesThatPrepareShareNothingWithOthers(t *testing.T) {
	r := setup(t)
	sub, first := slow()
	taken := make(chan struct{}, 1)
	sub.Prepare = func(context.Context, event.Event) (any, error) {
		taken <- struct{}{}
		return nil, nil
	}
	r.cc.ShutdownTimeout = 50 * time.Millisecond
	r.beside(sub, first)
	select {
	case <-taken:
	case <-time.After(waitFor):
		require.FailNow(t, "nothing is consumed")
	}
	r.produce(order(uuid.New(), "quick"))
	r.eventually("the quick one has its effect", func() bool { return r.count(`select count(*) from effects where note = 'quick'`) == 1 })
	require.Zero(t, r.count(`select count(*) from effects where note = 'slow'`))
}

// A batch that has waited for the transaction before its own has lingered.
func TestABatchLingersFromWhenItCame(t *testing.T) {
	const linger = 3 * time.Second
	r := setupPartitions(t, 12)
	c, partitions, release := r.behind(waitFor, linger, apply, names(30, "")...)
	r.eventually("all wait", func() bool { return c.GroupWaiting() == partitions })
	<-time.After(linger)
	release()
	released := time.Now()
	r.eventually("those that waited have their effect", func() bool { return r.count(`select count(*) from effects`) > partitions })
	require.Less(t, time.Since(released), linger)
	r.eventually("and those behind the first, which linger", func() bool { return r.count(`select count(*) from effects`) == 31 })
}

// What fails in a shared transaction is found out alone, and the others happen.
func TestAFailureInASharedTransactionIsItsOwn(t *testing.T) {
	r := setupPartitions(t, 12)
	c, partitions, release := r.behind(waitFor, 0, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		switch p.Reason {
		case "refused":
			return kafka.Permanent(errors.New("no"))
		case "breaks a rule":
			tx.Queue(`insert into strict (note, amount) values ($1, -1)`, p.Reason)
		}
		return apply(ctx, tx, e, p)
	}, append(names(30, ""), "refused", "breaks a rule")...)
	r.eventually("all wait", func() bool { return c.GroupWaiting() == partitions })
	release()
	r.eventually("two are dead", func() bool { return r.count(`select count(*) from msg.dead_letters where attempts = 1`) == 2 })
	r.eventually("the others have their effect", func() bool { return r.count(`select count(*) from effects`) == 31 })
	require.Equal(t, 31, r.count(`select count(distinct event_id) from effects`))
	require.Equal(t, 33, r.count(`select count(*) from msg.processed_events`))
}

// A transaction that takes long holds up nobody for long.
func TestASlowTransactionDoesNotHoldUpOtherPartitions(t *testing.T) {
	r := setupPartitions(t, 12)
	_, partitions, release := r.behind(50*time.Millisecond, 0, apply, names(30, "")...)
	require.Greater(t, partitions, 3)
	r.eventually("others have their effect", func() bool { return r.count(`select count(*) from effects`) >= partitions })
	require.Zero(t, r.count(`select count(*) from effects where note = 'first'`))
	release()
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 31 })
}
