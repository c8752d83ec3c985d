package kafka

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// slots bounds how many things run at once.
type slots chan struct{}

func (s slots) take(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) give() { <-s }

// outage is what all workers know about their database.
type outage struct{ down atomic.Bool }

// awaitDatabase returns true once the database answers, and false when the
// worker has to stop first. Meanwhile the worker takes nothing, its queue fills
// and its partition is paused: an outage costs time, and no attempts.
func (w *worker) awaitDatabase(ctx context.Context, cause error) bool {
	c := w.c
	if c.outage.down.CompareAndSwap(false, true) {
		c.m.down.Set(1)
		c.log.WarnContext(ctx, "database unavailable, consuming stops until it answers", "error", postgres.Explain(cause).Error())
	}
	for {
		// The first wait too: a database that answers a ping may still refuse
		// what the worker wants of it.
		w.outage++
		wait := min(50*time.Millisecond<<min(w.outage, 7), 5*time.Second)
		if !w.sleep(ctx, wait/2+rand.N(wait)) { //nolint:gosec // jitter
			return false
		}
		probe, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := c.db.Pool.Ping(probe)
		cancel()
		if err == nil {
			if c.outage.down.CompareAndSwap(true, false) {
				c.m.down.Set(0)
				c.log.InfoContext(ctx, "database answers, consuming goes on")
			}
			return true
		}
	}
}
