package outbox_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// series emits n numbered events for each key, one transaction each.
func (w *world) series(n int, keys ...string) {
	w.t.Helper()
	for i := range n {
		for _, key := range keys {
			e := newEvent(key)
			e.Data = []byte(strconv.Itoa(i + 1))
			require.NoError(w.t, w.db.InTx(w.t.Context(), func(tx *outbox.Tx) error {
				tx.Emit(w.t.Context(), e)
				return nil
			}))
		}
	}
}

// verdict is what became of numbered events: how many are missing, how many
// were published again, and how many came for the first time after a later one.
type verdict struct{ lost, repeated, late int }

// judge compares published records with how many events each key has.
func judge(records []*kgo.Record, want map[string]int) verdict {
	var v verdict
	seen := map[string]map[int]bool{}
	highest := map[string]int{}
	for _, r := range records {
		key := string(r.Key)
		n, _ := strconv.Atoi(string(r.Value))
		if seen[key] == nil {
			seen[key] = map[int]bool{}
		}
		switch {
		case seen[key][n]:
			v.repeated++
		case n < highest[key]:
			v.late++
		}
		seen[key][n] = true
		highest[key] = max(highest[key], n)
	}
	for key, n := range want {
		for i := range n {
			if !seen[key][i+1] {
				v.lost++
			}
		}
	}
	return v
}

func each(n int, keys ...string) map[string]int {
	want := map[string]int{}
	for _, k := range keys {
		want[k] = n
	}
	return want
}

// refuse makes the broker break every connection that produces, until the
// returned function is called.
func (w *world) refuse() (accept func()) {
	var off atomic.Bool
	w.broker.Fake().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Fake().KeepControl()
		if off.Load() {
			return nil, nil, false
		}
		return nil, errors.New("broker is away"), true
	})
	return func() { off.Store(true) }
}

func TestABrokerOutageDelaysAndLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	accept := w.refuse()
	stop := run(t, w.relay(outbox.RelayConfig{Batch: 10, Lease: 600 * time.Millisecond}).Run)
	w.series(20, "a", "b", "c")
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	first := w.lease()
	require.Eventually(t, func() bool { return w.lease().Sub(first) > time.Second }, patience, time.Millisecond,
		"the leader keeps its lease while it waits")
	require.Empty(t, w.published())
	accept()
	w.drained()
	stop()
	require.Equal(t, verdict{}, judge(w.published(), each(20, "a", "b", "c")))
	require.Equal(t, 1, w.epoch())
}

func (w *world) lease() (until time.Time) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `select lease_until from msg.outbox_cursor`).Scan(&until))
	return until
}

func TestRefusedRecordsAreTriedAgainInOrder(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]*kerr.Error{
		"no rights":          kerr.TopicAuthorizationFailed, // the client gives up, the relay does not
		"policy":             kerr.PolicyViolation,
		"written, not told":  kerr.RequestTimedOut,
		"leader moved":       kerr.NotLeaderForPartition,
		"too few in sync":    kerr.NotEnoughReplicas,
		"sequence forgotten": kerr.OutOfOrderSequenceNumber,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.series(20, "a", "b", "c")
			faults := w.broker.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: 4})
			stop := run(t, w.relay(outbox.RelayConfig{Batch: 10}).Run)
			w.drained()
			stop()
			require.Positive(t, faults.Hits())
			v := judge(w.published(), each(20, "a", "b", "c"))
			require.Zero(t, v.lost)
			require.Zero(t, w.count("msg.outbox_dead"))
			if code != kerr.TopicAuthorizationFailed && code != kerr.PolicyViolation {
				require.Equal(t, verdict{}, v)
			}
		})
	}
}

func (w *world) count(table string) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `select count(*) from `+table).Scan(&n))
	return n
}

// A topic that is missing is put right by somebody: until then its records
// wait, and what is published already is not published again at each try.
func TestAMissingTopicIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := newEvent("k")
	e.Type = "late.topic"
	w.series(5, "a", "b")
	require.NoError(t, w.db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Emit(t.Context(), e); return nil }))
	w.series(5, "c", "d")
	failures := &atomic.Int64{}
	client := w.client(kgo.UnknownTopicRetries(1))
	relay := outbox.NewRelay(w.db, client, outbox.RelayConfig{}, counting(failures), nil)
	stop := run(t, relay.Run)
	require.Eventually(t, func() bool { return failures.Load() >= 3 }, patience, time.Millisecond)
	w.createTopics("late.topic")
	w.drained()
	stop()
	require.Equal(t, verdict{}, judge(w.published(), each(5, "a", "b", "c", "d")))
	require.Len(t, w.published("late.topic"), 1)
}

// A topic that is deleted and made again has lost what it held, and nothing that
// is written from then on: neither while it is away nor with fewer partitions.
func TestATopicMadeAgainIsPublishedTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := newEvent("k")
	other.Type = "another.topic"
	w.createTopics(other.Type)
	client := w.client(kgo.UnknownTopicRetries(1), kgo.MetadataMaxAge(100*time.Millisecond))
	run(t, outbox.NewRelay(w.db, client, outbox.RelayConfig{}, w.log, nil).Run)
	w.series(5, "a", "b")
	w.drained()
	for _, partitions := range []int32{3, 1, 5} {
		_, err := w.broker.Admin.DeleteTopic(t.Context(), topic)
		require.NoError(t, err)
		// For a moment the broker takes records for what is being deleted.
		require.Eventually(t, func() bool {
			ends, err := w.broker.Admin.ListEndOffsets(t.Context(), topic)
			return err != nil || ends.Error() != nil || len(ends[topic]) == 0
		}, patience, 10*time.Millisecond)
		w.series(3, "c", "d")
		require.NoError(t, w.db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Emit(t.Context(), other); return nil }))
		require.Eventually(t, func() bool {
			_, err := w.broker.Admin.CreateTopic(t.Context(), partitions, -1, nil, topic)
			return err == nil
		}, patience, 10*time.Millisecond)
		w.series(3, "e", "f")
		w.drained()
		v := judge(w.published(), each(3, "e", "f"))
		require.Zero(t, v.lost, "%d partitions", partitions)
		require.Zero(t, v.late, "%d partitions", partitions)
	}
	require.Zero(t, w.count("msg.outbox_dead"))
	require.Len(t, w.published(other.Type), 3, "what was acknowledged is not sent again")
}

// A record the broker can never take ends in outbox_dead; those that shared a
// batch with it do not.
func TestAnUnsendableRecordIsSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.series(10, "a", "b")
	poison := newEvent("a")
	poison.Data = []byte("POISON")
	require.NoError(t, w.db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Emit(t.Context(), poison); return nil }))
	_, err := w.pool.Exec(t.Context(), `
		insert into msg.outbox (event_id, topic, key, value, headers) values
		(gen_random_uuid(), 'no such name', 'x', 'x', ''), (gen_random_uuid(), $1, 'x', 'x', '\xff'), (gen_random_uuid(), $1, null, null, '')`, topic)
	require.NoError(t, err)
	large := newEvent("a")
	large.Data = make([]byte, outbox.MaxEventBytes-300)
	require.NoError(t, w.db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Emit(t.Context(), large); return nil }))
	w.series(10, "c", "d")
	w.broker.Fake().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge, Count: -1, When: func(req kmsg.Request) bool {
		for _, t := range req.(*kmsg.ProduceRequest).Topics {
			for _, p := range t.Partitions {
				if bytes.Contains(p.Records, []byte("POISON")) {
					return true
				}
			}
		}
		return false
	}})
	client := w.client(kgo.ProducerBatchMaxBytes(500_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
	stop := run(t, outbox.NewRelay(w.db, client, outbox.RelayConfig{}, w.log, nil).Run)
	w.drained()
	stop()

	v := judge(w.published(), each(10, "a", "b", "c", "d"))
	require.Zero(t, v.lost)
	require.Zero(t, v.late)
	rows, err := w.pool.Query(t.Context(), `select d.seq, d.error from msg.outbox_dead d join msg.outbox o
		using (seq, event_id, topic, headers) where o.value is not distinct from d.value order by seq`)
	require.NoError(t, err)
	var seq int64
	var reason string
	var seqs []int64
	_, err = pgx.ForEachRow(rows, []any{&seq, &reason}, func() error {
		seqs = append(seqs, seq)
		require.NotEmpty(t, reason)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []int64{21, 22, 23, 25}, seqs)
	require.True(t, slices.ContainsFunc(w.published(), func(r *kgo.Record) bool { return r.Key == nil && r.Value == nil }))
}

func TestOfTwoRelaysOneLeadsUntilItResigns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.bell.Run)
	cfg := outbox.RelayConfig{Batch: 10, Lease: time.Hour} // nobody may wait for a lease to run out
	stop := run(t, w.relay(cfg).Run)
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	run(t, w.relay(cfg).Run)
	w.series(30, "a", "b")
	w.drained()
	require.Equal(t, 1, w.epoch())
	w.series(10, "c")
	stop()
	w.series(10, "d")
	w.drained()
	require.Equal(t, 2, w.epoch())
	want := each(30, "a", "b")
	want["c"], want["d"] = 10, 10
	require.Equal(t, verdict{}, judge(w.published(), want), "a handover repeats nothing")
}

// A leader that froze past its lease wakes up in the middle of its work. It may
// repeat what its successor published; it must not get anything out of order,
// nor move the cursor.
func TestALeaderThatFrozeIsFenced(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"before produce", "before cursor", "after cursor"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.series(20, "a", "b")
			cfg := outbox.RelayConfig{Batch: 10, Lease: 400 * time.Millisecond}
			old := w.relay(cfg)
			var times atomic.Int32
			frozen, thaw := make(chan struct{}), make(chan struct{})
			old.At(func(at string) {
				if at == point && times.Add(1) == 2 {
					close(frozen)
					<-thaw
				}
			})
			run(t, old.Run)
			<-frozen
			run(t, w.relay(cfg).Run)
			require.Eventually(t, func() bool { return w.epoch() >= 2 }, patience, time.Millisecond)
			w.drained()
			w.series(5, "c", "d")
			w.drained()
			pos := w.pos()
			close(thaw)
			w.series(5, "e")
			w.drained()
			require.Greater(t, w.pos(), pos)
			want := each(20, "a", "b")
			want["c"], want["d"], want["e"] = 5, 5, 5
			v := judge(w.published(), want)
			require.Zero(t, v.lost)
			require.Zero(t, v.late)
			require.LessOrEqual(t, v.repeated, 3*10)
		})
	}
}

func TestALostConnectionStartsAgainFromTheCursor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.relay(outbox.RelayConfig{Batch: 5}).Run)
	for term := range 4 {
		require.Eventually(t, func() bool { return w.epoch() > term }, patience, time.Millisecond)
		w.series(10, uuid.NewString(), uuid.NewString())
		_, err := w.pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
			where application_name = 'outbox-relay' and datname = current_database()`)
		require.NoError(t, err)
	}
	w.drained()
	want := map[string]int{}
	for _, r := range w.published() {
		want[string(r.Key)] = 10
	}
	require.Len(t, want, 8)
	v := judge(w.published(), want)
	require.Zero(t, v.lost)
	require.Zero(t, v.late)
}

// A shutdown waits for what is in flight, so that nothing is published twice.
func TestShutdownWaitsForAcknowledgements(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.series(20, "a")
	asked, answer := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	w.broker.Fake().ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Fake().KeepControl()
		if once.CompareAndSwap(false, true) {
			close(asked)
			w.broker.Fake().SleepControl(func() { <-answer })
		}
		return nil, nil, false
	})
	stop := run(t, w.relay(outbox.RelayConfig{Batch: 5, InFlight: 2}).Run)
	<-asked
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	require.Never(t, func() bool { return w.pos() > 0 }, 50*time.Millisecond, 10*time.Millisecond)
	close(answer)
	<-stopped
	stored := w.pos()
	require.Positive(t, stored)
	require.Len(t, w.published(), int(stored), "what was acknowledged is stored")
	run(t, w.relay(outbox.RelayConfig{}).Run)
	w.drained()
	require.Equal(t, verdict{}, judge(w.published(), each(20, "a")))
}

// With a poll that would take an hour, only the doorbell can have woken it.
func TestACommitInAnotherReplicaWakesTheLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.bell.Run)
	run(t, w.relay(outbox.RelayConfig{PollMin: time.Hour, PollMax: time.Hour}).Run)
	bell := postgres.NewDoorbell(w.pool, w.log)
	run(t, bell.Run)
	other := outbox.NewDB(w.pool, bell)
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	for range 5 {
		require.NoError(t, other.InTx(t.Context(), func(tx *outbox.Tx) error {
			tx.Emit(t.Context(), newEvent("k"))
			return nil
		}))
		w.drained()
	}
}
