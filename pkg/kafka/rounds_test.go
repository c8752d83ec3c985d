package kafka_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// preparing runs a consumer whose first Prepare does not return before release
// is called, produces 30 events more, and returns on how many other partitions
// they are and how many of them are prepared.
func (r *rig) preparing(patience time.Duration) (c *kafka.Consumer, partitions int, prepared *atomic.Int64, release func()) {
	r.t.Helper()
	prepared = &atomic.Int64{}
	held, free := make(chan struct{}), make(chan struct{})
	sub := kafka.OnPrepared(number, topic,
		func(_ context.Context, _ event.Event, p event.OrderCancelled) (bool, error) {
			if p.Reason == "first" {
				close(held)
				<-free
			} else {
				prepared.Add(1)
			}
			return true, nil
		},
		func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled, _ bool) error {
			return apply(ctx, tx, e, p)
		})
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, nil, sub)
	require.NoError(r.t, err)
	c.GroupPatience(patience)
	release = sync.OnceFunc(func() { close(free) })
	first := record(order(uuid.New(), "first"))
	r.produceRecords(first)
	r.background(c.Run)
	r.t.Cleanup(release) // before the consumer is stopped
	select {
	case <-held:
	case <-time.After(waitFor):
		require.FailNow(r.t, "nothing is prepared")
	}
	return c, r.produceBeside(first, names(30, "")...), prepared, release
}

// Batches of many partitions that come while others prepare begin together, as
// soon as these are done.
func TestBatchesThatComeDuringARoundAreTheNext(t *testing.T) {
	r := setupPartitions(t, 12)
	c, partitions, prepared, release := r.preparing(waitFor)
	require.Greater(t, partitions, 3)
	r.eventually("all wait", func() bool { return c.RoundWaiting() == partitions })
	require.Zero(t, prepared.Load())
	release()
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 31 })
	require.Zero(t, c.RoundWaiting())
	require.GreaterOrEqual(t, r.count(`select max(n) from (select count(*) as n from effects group by xmin::text) t`), partitions)
}

// A Prepare that takes long holds up nobody for long, also those that come
// after one another.
func TestASlowPrepareDoesNotHoldUpOtherPartitions(t *testing.T) {
	r := setupPartitions(t, 12)
	_, partitions, prepared, release := r.preparing(50 * time.Millisecond)
	r.eventually("others have their effect", func() bool { return r.count(`select count(*) from effects`) >= partitions })
	require.Zero(t, r.count(`select count(*) from effects where note = 'first'`))
	for range 3 {
		before := prepared.Load()
		for _, note := range names(5, "more") { // not all of them in the first's partition
			r.produce(order(uuid.New(), note))
		}
		r.eventually("more is prepared", func() bool { return prepared.Load() > before })
	}
	release()
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 46 })
}
