package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestEventDelivered100TimesHasOneEffect(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	e := order(id, "once")
	stop := r.consume(kafka.On(number, topic, apply))
	for range 99 {
		r.produce(e)
	}
	r.eventually("all are handled", func() bool { return r.results("processed")+r.results("duplicate") == 99 })
	stop()

	// A new process has an empty cache: the database has to know.
	r.consume(kafka.On(number, topic, apply))
	r.produce(e, order(id, "another fact about the same order"))
	r.eventually("the other fact has its effect", func() bool { return len(r.notes(id)) == 2 })
	require.Equal(t, []string{"once", "another fact about the same order"}, r.notes(id))
	// They are counted after they are committed.
	r.eventually("both are counted", func() bool { return r.results("processed")+r.results("duplicate") == 2 })
	require.Equal(t, 1, r.results("duplicate"))
}

func TestEventTwiceInOneBatchHasOneEffect(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	e, f := order(id, "first"), order(id, "second")
	r.produce(e, e, f, e, f) // before the consumer starts: it reads them at once
	r.consume(kafka.On(number, topic, apply))
	r.eventually("all are handled", func() bool { return r.results("processed")+r.results("duplicate") == 5 })
	require.Equal(t, []string{"first", "second"}, r.notes(id))
}

// Whatever is delivered again, wherever its first delivery has got to: parked as
// head or behind it, retried, dead, redriven, done.
func TestDuplicatesAtEveryPoint(t *testing.T) {
	r := setup(t)
	r.cc.RetryDelays = []time.Duration{time.Second, time.Second, time.Second}
	id, gone := uuid.New(), uuid.New()
	var all []event.Event
	for _, n := range names(3, "") {
		all = append(all, order(id, n))
	}
	lost := order(gone, "dead")
	all = append(all, lost)
	var fine, mended atomic.Bool
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		switch {
		case p.Reason == "0" && !fine.Load():
			return errors.New("not yet")
		case p.Reason == "dead" && !mended.Load():
			return kafka.Permanent(errors.New("never"))
		}
		return apply(ctx, tx, e, p)
	}))
	again := func(records ...*kgo.Record) {
		t.Helper()
		for range 3 {
			for _, rec := range records {
				r.produceRecords(&kgo.Record{Topic: rec.Topic, Key: rec.Key, Value: rec.Value, Headers: rec.Headers})
			}
		}
	}
	r.produce(all...)
	r.eventually("two wait behind the first", func() bool { return r.count(`select count(*) from msg.parked_events`) == 3 })
	for _, e := range all { // parked, or dead
		again(record(e))
	}
	again(r.read(kafka.RetryTopic(group, 1), 1)...)
	r.eventually("one is dead", func() bool { return r.size(dlq) == 1 })
	r.eventually("it is to be tried a third time", func() bool { return r.size(kafka.RetryTopic(group, 2)) == 1 })
	fine.Store(true)
	r.eventually("the others are done", func() bool { return len(r.notes(id)) == 3 })
	again(r.read(kafka.RetryTopic(group, 2), 1)...)
	for _, e := range all {
		again(record(e))
	}
	mended.Store(true)
	_, err := deadletter.NewStore(r.db, group).Redrive(t.Context(), deadletter.Command{Actor: "ada"})
	require.NoError(t, err)
	r.eventually("the dead one is done", func() bool { return len(r.notes(gone)) == 1 })
	again(r.read(kafka.RetryTopic(group, 1), 5)...)
	again(record(lost))
	r.produce(order(id, "last"), order(gone, "last"))
	r.eventually("all is read", func() bool {
		return r.committed(topic, kafka.RetryTopic(group, 1), kafka.RetryTopic(group, 2)) && r.count(`select count(*) from effects`) >= 6
	})
	require.Equal(t, []string{"0", "1", "2", "last"}, r.notes(id))
	require.Equal(t, []string{"dead", "last"}, r.notes(gone))
	require.EqualValues(t, 1, r.size(dlq))
	require.Zero(t, r.count(`select count(*) from msg.parked_keys`)+r.count(`select count(*) from msg.parked_events`))
}

func TestConsumerNumbersAreApart(t *testing.T) {
	r := setup(t)
	// The same event id on two topics: each consumer handles it once.
	id := uuid.New()
	e := order(id, "cancelled")
	other := e
	other.Type = event.TypeOrderStatusChanged
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, other.Type))
	r.consume(kafka.On(number, topic, apply), kafka.On(number+1, other.Type, apply))
	r.produce(e, other, e, other)
	r.eventually("all are handled", func() bool { return r.results("processed")+r.results("duplicate") == 4 })
	require.Len(t, r.notes(id), 2)
}

// A consumer that dies after COMMIT and before it commits its offsets reads the
// records again.
func TestKilledBetweenCommitAndOffsetCommit(t *testing.T) {
	r := setup(t)
	noCommits := r.broker.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Count: -1})
	id := uuid.New()
	for i := range 20 {
		r.produce(order(id, fmt.Sprint(i)))
	}
	stop := r.consume(kafka.On(number, topic, apply))
	r.eventually("all are handled", func() bool { return len(r.notes(id)) == 20 })
	stop()
	noCommits.Remove()

	r.consume(kafka.On(number, topic, apply))
	r.eventually("all are read again", func() bool { return r.results("duplicate") == 20 })
	require.Len(t, r.notes(id), 20)
	r.eventually("offsets are committed", func() bool { return r.committed(topic) })
}

func TestOffsetsAdvanceOnlyPastWhatHasAnOutcome(t *testing.T) {
	r := setup(t)
	id, release := uuid.New(), make(chan struct{})
	r.produce(order(id, "slow"))
	stop := r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		return apply(ctx, tx, e, p)
	}))
	r.eventually("the group is joined", func() bool { return r.members() == 1 })
	require.False(t, r.committed(topic))
	close(release)
	r.eventually("committed every second", func() bool { return r.committed(topic) })
	stop()
	require.Equal(t, []string{"slow"}, r.notes(id))
}

// A shutdown lets the running batch commit, and its offsets too.
func TestShutdownFinishesTheRunningBatch(t *testing.T) {
	r := setup(t)
	id, entered := uuid.New(), make(chan struct{}, 1)
	stop := r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		entered <- struct{}{}
		if _, err := tx.Exec(ctx, `select pg_sleep(0.3)`); err != nil {
			return err
		}
		return apply(ctx, tx, e, p)
	}))
	r.produce(order(id, "in time"))
	<-entered
	stop()
	require.Equal(t, []string{"in time"}, r.notes(id))
	require.True(t, r.committed(topic))
}

// One that does not end is cancelled, and is not counted as an attempt.
func TestShutdownCancelsWhatTakesTooLong(t *testing.T) {
	r := setup(t)
	r.cc.ShutdownTimeout = 50 * time.Millisecond
	id, entered := uuid.New(), make(chan struct{}, 1)
	stop := r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		entered <- struct{}{}
		_, err := tx.Exec(ctx, `select pg_sleep(20)`)
		return err
	}))
	r.produce(order(id, "later"))
	<-entered
	started := time.Now()
	stop()
	require.Less(t, time.Since(started), 10*time.Second)
	require.Zero(t, r.count(`select count(*) from msg.processed_events`))
	require.Zero(t, r.count(`select count(*) from msg.outbox`))

	r.consume(kafka.On(number, topic, apply))
	r.eventually("read again", func() bool { return slices.Equal(r.notes(id), []string{"later"}) })
}

func TestRebalanceBetweenTwoConsumers(t *testing.T) {
	r := setup(t)
	const orders, events = 30, 10
	ids := make([]uuid.UUID, orders)
	for i := range ids {
		ids[i] = uuid.New()
	}
	stopA := r.consume(kafka.On(number, topic, apply))
	var stopB func()
	for n := range events {
		for _, id := range ids {
			r.produce(order(id, fmt.Sprint(n)))
		}
		switch n {
		case 3:
			stopB = r.consume(kafka.On(number, topic, apply))
		case 5:
			r.eventually("both are members", func() bool { return r.members() == 2 })
		case 7:
			stopA()
		}
	}
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) >= orders*events })
	stopB()
	for _, id := range ids {
		require.Equal(t, names(events, ""), r.notes(id))
	}
}

func TestBrokerDownAtStart(t *testing.T) {
	r := setup(t)
	down := r.broker.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Count: -1, TopLevel: true},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Count: -1}, kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Count: -1})
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, r.reg, kafka.On(number, topic, apply))
	require.NoError(t, err)
	r.background(c.Run)
	require.Error(t, c.Health(t.Context()))
	r.eventually("it tries", func() bool { return down.Hits() > 3 })
	down.Remove()
	id := uuid.New()
	r.eventually("topics exist", func() bool { return r.exists(dlq) })
	r.produce(order(id, "late"))
	r.eventually("it consumes", func() bool { return len(r.notes(id)) == 1 })
	require.NoError(t, c.Health(t.Context()))
	require.Equal(t, "1310720", r.setting(dlq, "max.message.bytes"), "room for the headers of a dead letter")
}

func TestNewConsumerChecksItsArguments(t *testing.T) {
	t.Parallel()
	r := setupWithoutRelay(t)
	ok := kafka.On(number, topic, apply)
	for name, subs := range map[string][]kafka.Subscription{
		"none":        {},
		"same number": {ok, kafka.On(number, "other", apply)},
		"same topic":  {ok, kafka.On(number+1, topic, apply)},
		"no number":   {kafka.On(0, topic, apply)},
		"no handler":  {{Consumer: 1, Topic: topic}},
		"unnamed":     {kafka.On(1, "", apply)},
	} {
		_, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, nil, subs...)
		require.Error(t, err, name)
	}
	_, err := kafka.NewConsumer(r.cfg, kafka.ConsumerConfig{}, r.db, r.log, nil, ok)
	require.Error(t, err)
}

func TestApplyHelperRunsASubscription(t *testing.T) {
	t.Parallel()
	r := setupWithoutRelay(t)
	e := order(uuid.New(), "direct")
	sub := kafka.OnPrepared(number, topic,
		func(context.Context, event.Event, event.OrderCancelled) (string, error) { return "prepared", nil },
		func(_ context.Context, tx *outbox.Tx, e event.Event, _ event.OrderCancelled, note string) error {
			effect(tx, e, note)
			return nil
		})
	require.NoError(t, kafkatest.Apply(t, r.db, kafkatest.Find(t, []kafka.Subscription{sub}, topic), e))
	require.Equal(t, []string{"prepared"}, r.notes(uuid.MustParse(e.Subject)))
	require.Error(t, kafkatest.Apply(t, r.db, sub, event.Event{Type: topic, Data: []byte("{")}))
}
