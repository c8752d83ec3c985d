package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/coalesce"
)

const (
	// groupBatch is how many records a batch may have to share a transaction or a
	// round. Larger ones gain little, and run side by side instead.
	groupBatch = 50
	// groupPatience is how long a batch waits for the transaction or the round
	// before its own: a handler that takes long holds up other partitions for no
	// longer.
	groupPatience = 50 * time.Millisecond
)

// groupCommit lets small batches of several partitions share a transaction, as a
// log shares a flush (DeWitt et al., SIGMOD 1984): while one runs, those that
// come wait, and go together into the next. None begins before the first of them
// is due; then all go.
type groupCommit struct {
	patience time.Duration
	came     chan struct{} // one more waits; buffered 1

	mu      sync.Mutex
	busy    bool
	waiting []*share
}

func newGroupCommit() *groupCommit {
	return &groupCommit{patience: groupPatience, came: make(chan struct{}, 1)}
}

// share is one worker's batch.
type share struct {
	ctx   context.Context //nolint:containedctx // of the batch, for as long as it waits
	items []*item
	bytes int
	due   time.Time    // it has lingered
	told  chan verdict // buffered 1
}

// verdict is what a waiting batch is told.
type verdict struct {
	leads bool   // it is its turn: run, with those that wait
	alone bool   // a transaction with others failed: run again, to tell whose fault it is
	fault *fault // otherwise: how the transaction ended
}

// runGrouped is run, perhaps in one transaction with batches of other workers.
func (c *Consumer) runGrouped(ctx context.Context, items []*item) *fault {
	sub := items[0].sub
	g := c.groups[sub.Prepare != nil]
	own := &share{ctx: ctx, items: items, due: time.Now().Add(sub.Linger), told: make(chan verdict, 1)}
	for _, it := range items {
		own.bytes += len(it.rawKey) + len(it.value)
	}
	if g.enter(own) {
		return c.lead(g, own)
	}
	patience := time.NewTimer(g.patience)
	defer patience.Stop()
	var v verdict
	select {
	case v = <-own.told:
	case <-patience.C:
		if g.withdraw(own) {
			return c.run(ctx, items)
		}
		v = <-own.told // it runs already
	}
	switch {
	case v.leads:
		return c.lead(g, own)
	case v.alone:
		return c.run(ctx, items)
	}
	return v.fault
}

// lead runs a batch together with those that wait, and hands over.
func (c *Consumer) lead(g *groupCommit, own *share) *fault {
	g.linger(own)
	coalesce.Gather(c.cc.BatchRecords, g.count) // batches of the same fetch come along
	others := g.take(own, c.cc.BatchRecords, c.cc.BatchBytes)
	if len(others) == 0 {
		defer g.leave()
		return c.run(own.ctx, own.items)
	}
	// Any of their partitions may be lost meanwhile.
	ctx, cancel := context.WithCancel(own.ctx)
	defer cancel()
	items := slices.Clone(own.items)
	for _, s := range others {
		items = append(items, s.items...)
		defer context.AfterFunc(s.ctx, cancel)()
	}
	f := c.run(ctx, items)
	v := verdict{fault: f, alone: f != nil && f.class != classInfrastructure}
	for _, s := range others {
		s.told <- v
	}
	g.leave()
	if v.alone {
		return c.run(own.ctx, own.items)
	}
	return f
}

// linger waits until own or one that waits is due.
func (g *groupCommit) linger(own *share) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := time.Until(g.due(own))
		if wait <= 0 {
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-g.came:
		case <-own.ctx.Done():
			return
		}
	}
}

// due returns when the first of own and those that wait is due.
func (g *groupCommit) due(own *share) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	due := own.due
	for _, s := range g.waiting {
		if s.due.Before(due) {
			due = s.due
		}
	}
	return due
}

// enter reports whether s may run at once; otherwise it waits.
func (g *groupCommit) enter(s *share) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.busy {
		g.busy = true
		return true
	}
	g.waiting = append(g.waiting, s)
	select {
	case g.came <- struct{}{}:
	default:
	}
	return false
}

// count returns how many batches wait.
func (g *groupCommit) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// take returns the batches that go along with own, within the bounds of one batch.
func (g *groupCommit) take(own *share, records, bytes int) []*share {
	g.mu.Lock()
	defer g.mu.Unlock()
	records, bytes = records-len(own.items), bytes-own.bytes
	i := 0
	for ; i < len(g.waiting); i++ {
		records, bytes = records-len(g.waiting[i].items), bytes-g.waiting[i].bytes
		if records < 0 || bytes < 0 {
			break
		}
	}
	others := slices.Clone(g.waiting[:i])
	g.waiting = slices.Delete(g.waiting, 0, i)
	return others
}

// leave lets the first that waits lead.
func (g *groupCommit) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.busy = false
		return
	}
	g.waiting[0].told <- verdict{leads: true}
	g.waiting = slices.Delete(g.waiting, 0, 1)
}

// withdraw reports whether s still waited, and no longer does.
func (g *groupCommit) withdraw(s *share) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, s)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}
