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
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// A member that lost its partition and does not know it yet cannot double an
// effect: the claim of whoever commits first decides.
func TestZombieAfterPartitionLoss(t *testing.T) {
	r := setup(t)
	id, entered := uuid.New(), make(chan struct{}, 10)
	var calls atomic.Int64
	slow := kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if calls.Add(1) == 1 {
			entered <- struct{}{}
			if _, err := tx.Exec(ctx, `select pg_sleep(20)`); err != nil { // cancelled when the loss is known
				return err
			}
		}
		return apply(ctx, tx, e, p)
	})
	stop := r.consume(slow)
	r.produce(order(id, "once"))
	<-entered
	lost := r.broker.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, TopLevel: true, Count: 1})
	r.eventually("the loss is known", func() bool { return lost.Hits() == 1 })
	r.consume(kafka.On(number, topic, apply))
	r.eventually("somebody handles it", func() bool { return len(r.notes(id)) == 1 })
	r.produce(order(id, "next"))
	r.eventually("it goes on", func() bool { return len(r.notes(id)) == 2 })
	stop()
	require.Equal(t, []string{"once", "next"}, r.notes(id))
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

func TestDeletedTopicIsMadeAgain(t *testing.T) {
	r := setup(t)
	r.cfg.MetadataMaxAge = 50 * time.Millisecond
	id := uuid.New()
	r.consume(kafka.On(number, topic, apply))
	r.produce(order(id, "before"))
	r.eventually("it consumes", func() bool { return len(r.notes(id)) == 1 })
	_, err := r.broker.Admin.DeleteTopic(t.Context(), topic)
	require.NoError(t, err)
	r.eventually("the topic is back", func() bool { return len(r.ends(topic)) == 3 && r.size(topic) == 0 })
	require.NoError(t, r.db.InTx(t.Context(), func(tx *outbox.Tx) error {
		tx.Emit(t.Context(), order(id, "after"))
		return nil
	}))
	r.eventually("it goes on", func() bool { return len(r.notes(id)) == 2 })
}

// Somebody makes topics again, with other numbers of partitions: what comes
// then is consumed, and retries go on through topics made again.
func TestTopicsMadeAgainBySomebody(t *testing.T) {
	t.Parallel()
	r := setupWithoutRelay(t)
	r.cfg.MetadataMaxAge = 50 * time.Millisecond
	r.cc.WatchInterval = time.Hour // nothing is made again by the consumer
	client, err := kafka.NewClient(r.cfg, "test", r.log, nil)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	r.client = client
	r.relay()
	var seen sync.Map
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if _, again := seen.LoadOrStore(e.ID, true); !again && p.Reason != "0" {
			return errors.New("the first time")
		}
		return apply(ctx, tx, e, p)
	}))
	id, want := uuid.New(), []string{"0"}
	emit := func(note string) {
		e := order(id, note)
		require.NoError(t, r.db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Emit(t.Context(), e); return nil }))
	}
	emit("0")
	r.eventually("it consumes", func() bool { return len(r.notes(id)) == 1 })
	for _, partitions := range []int32{1, 5} {
		topics := []string{topic, kafka.RetryTopic(group, 1)}
		_, err := r.broker.Admin.DeleteTopics(t.Context(), topics...)
		require.NoError(t, err)
		// For a moment a broker takes records for what is being deleted.
		r.eventually("they are gone", func() bool { return !r.exists(topics[0]) && !r.exists(topics[1]) })
		r.eventually("they are made again", func() bool {
			made, err := r.broker.Admin.CreateTopics(t.Context(), partitions, -1, nil, topics...)
			return err == nil && made.Error() == nil
		})
		want = append(want, fmt.Sprint(partitions))
		emit(fmt.Sprint(partitions))
		r.eventually("it goes on", func() bool { return len(r.notes(id)) == len(want) })
	}
	require.Equal(t, want, r.notes(id))
}

func TestAddedPartitionsAreConsumed(t *testing.T) {
	r := setup(t)
	r.cfg.MetadataMaxAge = 50 * time.Millisecond
	id := uuid.New()
	r.consume(kafka.On(number, topic, apply))
	r.produce(order(id, "before"))
	r.eventually("it consumes", func() bool { return len(r.notes(id)) == 1 })
	all := len(r.ends(topic)) + 5
	_, err := kadm.NewClient(r.client).CreatePartitions(t.Context(), 5, topic)
	require.NoError(t, err)
	client, err := kafka.NewClient(r.cfg, "test", r.log, nil)
	require.NoError(t, err)
	defer client.Close()
	produced := 1
	r.eventually("all partitions have records", func() bool { // a broker may hear of them late
		require.NoError(t, client.ProduceSync(t.Context(), record(order(uuid.New(), "x"))).FirstErr())
		produced++
		ends := r.ends(topic)
		return len(ends) == all && !slices.Contains(ends, 0)
	})
	r.eventually("all are handled", func() bool { return r.count(`select count(*) from effects`) == produced })
}

// A backlog larger than a queue is consumed all the same, without holding more
// than the queue.
func TestBacklogLargerThanTheQueue(t *testing.T) {
	r := setup(t)
	r.cc.QueueRecords, r.cc.BatchRecords = 50, 20
	events := make([]event.Event, 3000)
	id := uuid.New()
	for i := range events {
		events[i] = order(id, fmt.Sprint(i))
	}
	r.produce(events...)
	r.consume(kafka.On(number, topic, apply))
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == len(events) })
	require.Equal(t, names(len(events), ""), r.notes(id))
	require.Zero(t, r.metric("tiffin_consumer_lag_records", nil))
}

// A partition that stands still with a full queue holds up no other.
func TestPartitionThatStandsStillHoldsUpNobody(t *testing.T) {
	r := setup(t)
	r.cc.QueueRecords, r.cc.BatchRecords = 20, 10
	stuck, release := uuid.New(), make(chan struct{})
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if p.OrderID == stuck {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return apply(ctx, tx, e, p)
	}))
	for n := range 500 {
		r.produce(order(stuck, fmt.Sprint(n)))
	}
	blocked := record(order(stuck, "")) // to learn its partition
	r.produceRecords(blocked)
	var others []uuid.UUID
	for len(others) < 5 {
		rec := record(order(uuid.New(), "flows"))
		r.produceRecords(rec)
		if rec.Partition != blocked.Partition {
			others = append(others, uuid.MustParse(string(rec.Key)))
		}
	}
	for _, id := range others {
		r.eventually("others flow", func() bool { return len(r.notes(id)) == 1 })
	}
	require.Empty(t, r.notes(stuck))
	require.Less(t, r.metric("tiffin_consumer_queued_records", nil), 250.0, "the rest stays with the broker")
	close(release)
	r.eventually("it goes on", func() bool { return len(r.notes(stuck)) == 501 })
	require.Equal(t, append(names(500, ""), ""), r.notes(stuck))
}

// A key with too many followers makes its partition wait instead of filling the
// database.
func TestHotKeyMakesItsPartitionWait(t *testing.T) {
	r := setup(t)
	r.cc.ParkedLimit, r.cc.BatchRecords = 10, 5
	r.cc.RetryDelays = []time.Duration{3 * time.Second, time.Second, time.Second}
	r.cc.WatchInterval = 5 * time.Millisecond
	id := uuid.New()
	sub, _ := failing(2, fmt.Errorf("hm"), "0")
	r.produce(order(id, "0"))
	r.consume(sub)
	r.eventually("it waits", func() bool { return r.count(`select count(*) from msg.parked_keys`) == 1 })
	for n := 1; n < 12; n++ {
		r.produce(order(id, fmt.Sprint(n)))
	}
	r.eventually("the limit is noticed", func() bool { return r.metric("tiffin_consumer_parked_events", nil) >= 10 })
	for n := 12; n < 60; n++ {
		r.produce(order(id, fmt.Sprint(n)))
	}
	// Once the first has its effect the others follow, and room for more comes and
	// goes as fast as the machine allows. Until then those of before the limit wait.
	most := 0
	r.eventually("all have their effect", func() bool {
		waiting := r.count(`select count(*) from msg.parked_events`)
		done := len(r.notes(id))
		if done == 0 {
			most = max(most, waiting)
		}
		return done == 60
	})
	require.Equal(t, names(60, ""), r.notes(id))
	require.LessOrEqual(t, most, 12)
}

func TestLagIsKnown(t *testing.T) {
	r := setup(t)
	release := make(chan struct{})
	r.cc.BatchRecords = 1
	for range 10 {
		r.produce(order(uuid.New(), "x"))
	}
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return ctx.Err()
	}))
	lag := func() float64 { return r.metric("tiffin_consumer_lag_records", map[string]string{"topic": topic}) }
	r.eventually("it is behind", func() bool { return lag() == 10 })
	close(release)
	r.eventually("it is not", func() bool { return lag() == 0 })
}
