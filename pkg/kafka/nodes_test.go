package kafka_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// Three nodes, every record on three and acknowledged by two: each node is
// killed once while events are written, published and consumed, and comes back.
// Nothing is lost, handled twice or out of order, also not in the topic.
func TestANodeOfThreeKilledUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t, kafkatest.StartThree(t), pgtest.New(t, schema))
	r.relay()
	r.relay()
	for range 2 {
		r.consume(kafka.On(number, topic, apply))
	}
	const writers = 6
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ids, written := make([]uuid.UUID, writers), make([]int, writers)
	var wg sync.WaitGroup
	for i := range ids {
		ids[i] = uuid.New()
		wg.Go(func() {
			pace := time.NewTicker(5 * time.Millisecond)
			defer pace.Stop()
			for ; ctx.Err() == nil; <-pace.C {
				e := order(ids[i], strconv.Itoa(written[i]))
				if r.db.InTx(context.WithoutCancel(ctx), func(tx *outbox.Tx) error { tx.Emit(ctx, e); return nil }) == nil {
					written[i]++
				}
			}
		})
	}
	// A round is over when what was written at its start has been handled.
	handled := func(node int) {
		t.Helper()
		n := r.count(`select count(*) from msg.outbox`)
		require.Eventually(t, func() bool { return r.count(`select count(*) from effects`) >= n }, 2*time.Minute, 50*time.Millisecond, "node %d", node)
	}
	handled(-1)
	nodes := r.broker.Nodes()
	for i := range nodes.Addrs() {
		nodes.Kill(i)
		handled(i)
		require.NoError(t, nodes.Restart(t.Context(), i))
		r.eventually("it is in sync again", r.inSync)
	}
	cancel()
	wg.Wait()
	handled(-1)
	total := 0
	for i, id := range ids {
		require.Equal(t, names(written[i], ""), r.notes(id))
		total += written[i]
	}
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
	require.Zero(t, r.count(`select count(*) from msg.dead_letters`))

	// In the topic too. A relay that lost its lease for want of a processor may
	// have published some again; first comes first all the same.
	size := int(r.size(topic))
	next := map[string]int{}
	for _, rec := range r.read(topic, size) {
		p, err := event.Decode[event.OrderCancelled](event.Event{Data: rec.Value})
		require.NoError(t, err)
		n, err := strconv.Atoi(p.Reason)
		require.NoError(t, err)
		require.LessOrEqual(t, n, next[string(rec.Key)], "order in the topic")
		next[string(rec.Key)] = max(next[string(rec.Key)], n+1)
	}
	for i, id := range ids {
		require.Equal(t, written[i], next[id.String()])
	}
	t.Logf("%d events, %d records", total, size)
}

// inSync tells whether every partition of the topic has all its replicas.
func (r *rig) inSync() bool {
	topics, err := r.broker.Admin.ListTopics(context.Background(), topic)
	if err != nil {
		return false
	}
	for _, p := range topics[topic].Partitions {
		if len(p.ISR) != len(p.Replicas) {
			return false
		}
	}
	return len(topics[topic].Partitions) > 0
}
