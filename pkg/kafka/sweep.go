package kafka

import (
	"context"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

const (
	sweepKeys  = 100  // keys that one sweep takes over
	pruneChunk = 5000 // claims deleted in one statement
	// hotKey is how many events behind one key are worth a warning.
	hotKey = 1000
)

// sweep goes on with what a worker left: keys whose draining stopped, and heads
// whose retry record is long overdue. It needs no broker.
func (c *Consumer) sweep(ctx context.Context) error {
	w := &worker{c: c, stop: make(chan struct{}), limit: 1}
	return every(ctx, c.cc.SweepInterval, func() {
		keys, err := inbox.Stopped(ctx, c.db.Pool, c.cc.OverdueAfter, sweepKeys)
		if err != nil {
			c.log.DebugContext(ctx, "sweep of parked keys failed, the next one will do", "error", err.Error())
			return
		}
		for _, k := range keys {
			c.log.InfoContext(ctx, "going on with a parked key", "consumer", k.Consumer, "key", ascii(k.Bytes, 64))
			if !w.drain(ctx, k, true) {
				return
			}
		}
	})
}

// watch keeps the gauges about dead letters and parked events.
func (c *Consumer) watch(ctx context.Context) error {
	return every(ctx, c.cc.WatchInterval, func() {
		open, oldest, err := deadletter.Open(ctx, c.db.Pool)
		if err != nil {
			return // the database is down, which other signals tell
		}
		c.m.open.Set(float64(open))
		c.m.oldest.Set(oldest.Seconds())
		depth, err := inbox.Measure(ctx, c.db.Pool, min(hotKey, c.cc.ParkedLimit))
		if err != nil {
			return
		}
		full := map[inbox.Key]bool{}
		for k, n := range depth.Hot {
			full[k] = n >= int64(c.cc.ParkedLimit)
			c.log.WarnContext(ctx, "many events wait behind one key", "consumer", k.Consumer, "key", ascii(k.Bytes, 64),
				"events", n, "partition_waits", full[k])
		}
		c.hot.Store(&full)
		c.m.keys.Set(float64(depth.Keys))
		c.m.events.Set(float64(depth.Events))
	})
}

// isFull tells whether no more events may wait behind k.
func (c *Consumer) isFull(k inbox.Key) bool {
	full := c.hot.Load()
	return full != nil && (*full)[k]
}

// prune forgets claims that are older than the horizon, in chunks, so that no
// delete is long.
func (c *Consumer) prune(ctx context.Context) error {
	return every(ctx, c.cc.PruneInterval, func() {
		for number := range c.numbers {
			c.pruneConsumer(ctx, number)
		}
		c.pruneConsumer(ctx, 0) // of records that named no topic of the group
	})
}

func (c *Consumer) pruneConsumer(ctx context.Context, number int16) {
	for ctx.Err() == nil {
		n, err := inbox.Prune(ctx, c.db.Pool, number, c.now(), c.cc.Retention, pruneChunk)
		if err != nil {
			c.log.DebugContext(ctx, "prune failed, the next one will do", "error", err.Error())
			return
		}
		if n < pruneChunk {
			return
		}
	}
}

// every calls work now and then after each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, work func()) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		work()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
