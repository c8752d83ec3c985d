package kafka_test

import (
	"context"
	"errors"
	"fmt"
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

// failing returns a subscription whose handler fails the first n times that it
// sees an event with one of the notes.
func failing(n int, err error, bad ...string) (kafka.Subscription, *sync.Map) {
	var seen sync.Map // note → *atomic.Int64
	sub := kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		tries, _ := seen.LoadOrStore(p.Reason, new(atomic.Int64))
		try := tries.(*atomic.Int64).Add(1)
		for _, b := range bad {
			// The first try of an attempt may be within a batch, the second alone.
			if p.Reason == b && try <= int64(n) {
				return err
			}
		}
		return apply(ctx, tx, e, p)
	})
	return sub, &seen
}

func TestHandlerThatFailsTwiceHasOneEffect(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	sub, seen := failing(2, errors.New("not today"), "hard")
	rec := record(order(id, "hard"))
	rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: "x-custom", Value: []byte{0xff, 0x00}}, kgo.RecordHeader{Key: "null"})
	started := time.Now()
	r.consume(sub)
	r.produceRecords(rec)
	r.eventually("it succeeds", func() bool { return len(r.notes(id)) == 1 })
	require.GreaterOrEqual(t, time.Since(started), delays[0]+delays[1])
	tries, _ := seen.Load("hard")
	require.EqualValues(t, 3, tries.(*atomic.Int64).Load())

	// Retries are private: the shared topic holds what the producer wrote.
	require.EqualValues(t, 1, r.size(topic))
	require.EqualValues(t, 0, r.size(kafka.RetryTopic(group, 3)))
	require.EqualValues(t, 0, r.size(dlq))
	for n := 1; n <= 2; n++ {
		got := r.read(kafka.RetryTopic(group, n), 1)[0]
		require.Equal(t, rec.Key, got.Key)
		require.Equal(t, rec.Value, got.Value)
		require.Equal(t, rec.Headers, original(got.Headers))
		require.Equal(t, fmt.Sprint(n), header(got, "x-retry-count"))
		require.Equal(t, "3", header(got, "x-retry-max"))
		require.Equal(t, topic, header(got, "x-orig-topic"))
		require.Equal(t, fmt.Sprint(rec.Offset), header(got, "x-orig-offset"))
		require.Equal(t, "transient", header(got, "x-error-class"))
		require.Contains(t, header(got, "x-error-message"), "not today")
	}
	require.Zero(t, r.count(`select count(*) from msg.parked_keys`))
	require.Zero(t, r.count(`select count(*) from msg.parked_events`))
	r.eventually("offsets are committed", func() bool { return r.committed(topic, kafka.RetryTopic(group, 1), kafka.RetryTopic(group, 2)) })
}

func TestFourthFailureIsADeadLetter(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	sub, seen := failing(99, errors.New("never"), "hopeless")
	rec := record(order(id, "hopeless"))
	started := time.Now()
	r.consume(sub)
	r.produceRecords(rec)
	r.eventually("it is dead", func() bool { return r.size(dlq) == 1 })
	tries, _ := seen.Load("hopeless")
	require.EqualValues(t, 4, tries.(*atomic.Int64).Load())

	got := r.read(dlq, 1)[0]
	require.Equal(t, rec.Key, got.Key)
	require.Equal(t, rec.Value, got.Value)
	require.Equal(t, rec.Headers, original(got.Headers))
	for name, want := range map[string]string{
		"x-retry-count": "3", "x-retry-max": "3", "x-orig-topic": topic, "x-orig-partition": fmt.Sprint(rec.Partition),
		"x-orig-offset": fmt.Sprint(rec.Offset), "x-consumer-group": group, "x-error-class": "transient",
		"x-error-message": "handle order.cancelled: never", "x-redrive-count": "0",
	} {
		require.Equal(t, want, header(got, name), name)
	}
	first, err := time.Parse(time.RFC3339Nano, header(got, "x-first-failed-at"))
	require.NoError(t, err)
	dead, err := time.Parse(time.RFC3339Nano, header(got, "x-dlq-at"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, dead.Sub(first), delays[0]+delays[1]+delays[2])
	require.WithinDuration(t, started, first, 15*time.Second)

	var letter struct {
		id, event  uuid.UUID
		topic, err string
		offset     int64
		attempts   int
		value      []byte
	}
	require.NoError(t, r.pool.QueryRow(t.Context(), `select id, event_id, topic, "offset", error, attempts, value from msg.dead_letters`).
		Scan(&letter.id, &letter.event, &letter.topic, &letter.offset, &letter.err, &letter.attempts, &letter.value))
	require.Equal(t, header(got, "x-dlq-id"), letter.id.String())
	require.Equal(t, header(got, "ce_id"), letter.event.String())
	require.Equal(t, topic, letter.topic)
	require.Equal(t, rec.Offset, letter.offset)
	require.Equal(t, 4, letter.attempts)
	require.Equal(t, rec.Value, letter.value)
	require.Zero(t, r.count(`select count(*) from msg.parked_keys`))
	r.eventually("it is counted", func() bool {
		return r.metric("tiffin_dead_letters_open", nil) == 1 && r.metric("tiffin_dead_letters_oldest_seconds", nil) > 0
	})
}

func TestPermanentErrorIsADeadLetterAtOnce(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	sub, seen := failing(99, kafka.Permanent(errors.New("no such restaurant")), "bad")
	r.consume(sub)
	r.produce(order(id, "bad"), order(id, "good"))
	r.eventually("the next one of the key is handled", func() bool { return len(r.notes(id)) == 1 })
	r.eventually("it is dead", func() bool { return r.size(dlq) == 1 })
	require.Equal(t, "permanent", header(r.read(dlq, 1)[0], "x-error-class"))
	tries, _ := seen.Load("bad")
	require.LessOrEqual(t, tries.(*atomic.Int64).Load(), int64(2), "at most once in a batch and once alone")
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

func TestPanicIsRetried(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	var once sync.Once
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		once.Do(func() { panic("oops") })
		return apply(ctx, tx, e, p)
	}))
	r.produce(order(id, "survives"))
	r.eventually("it succeeds", func() bool { return len(r.notes(id)) == 1 })
	require.Equal(t, "panic: oops", header(r.read(kafka.RetryTopic(group, 1), 1)[0], "x-error-message"))
}

// Events behind one that waits are handled after it, in their order; other keys
// do not wait.
func TestOrderOfAKeySurvivesRetries(t *testing.T) {
	r := setupOnePartition(t)
	r.cc.RetryDelays = []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second}
	slow, fast := uuid.New(), uuid.New()
	var flowed atomic.Bool
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if p.Reason == "s0" && !flowed.Load() {
			return errors.New("not yet")
		}
		return apply(ctx, tx, e, p)
	}))
	for _, n := range names(6, "") {
		r.produce(order(slow, "s"+n), order(fast, "f"+n))
	}
	r.eventually("other keys flow", func() bool { return len(r.notes(fast)) == 6 })
	require.Empty(t, r.notes(slow), "nothing overtakes the one that waits")
	flowed.Store(true)
	r.eventually("all have their effect", func() bool { return len(r.notes(slow)) == 6 })
	require.Equal(t, names(6, "s"), r.notes(slow))
	require.Equal(t, names(6, "f"), r.notes(fast))
	r.eventually("nothing is parked", func() bool {
		return r.count(`select count(*) from msg.parked_keys`)+r.count(`select count(*) from msg.parked_events`) == 0
	})
	r.produce(order(slow, "after"))
	r.eventually("the key is free", func() bool { return len(r.notes(slow)) == 7 })
}

// A follower that fails is the next head, with all its attempts; a dead head
// lets its followers go on.
func TestFollowersThatFail(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	sub, seen := failing(3, errors.New("hm"), "n0", "n2", "n4")
	dead, deadSeen := failing(99, errors.New("never"), "n0", "n3")
	sub.Apply = both(sub, dead)
	r.consume(sub)
	for _, n := range names(6, "n") {
		r.produce(order(id, n))
	}
	r.eventually("all but the dead have their effect", func() bool { return len(r.notes(id)) == 4 })
	require.Equal(t, []string{"n1", "n2", "n4", "n5"}, r.notes(id))
	r.eventually("two are dead", func() bool { return r.count(`select count(*) from msg.dead_letters`) == 2 })
	for _, n := range []string{"n2", "n4"} {
		tries, _ := seen.Load(n)
		require.EqualValues(t, 4, tries.(*atomic.Int64).Load(), n)
	}
	tries, _ := deadSeen.Load("n3")
	require.GreaterOrEqual(t, tries.(*atomic.Int64).Load(), int64(4), "a try within a batch is not an attempt")
	require.Zero(t, r.count(`select count(*) from msg.parked_events`))
}

// both fails when a or b fails; only a writes.
func both(a, b kafka.Subscription) func(context.Context, *outbox.Tx, event.Event, any) error {
	first := a.Apply
	return func(ctx context.Context, tx *outbox.Tx, e event.Event, prepared any) error {
		if err := first(ctx, tx, e, prepared); err != nil {
			return err
		}
		return b.Apply(ctx, &outbox.Tx{}, e, prepared) // a transaction that goes nowhere
	}
}
