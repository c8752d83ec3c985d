package kafka

import (
	"context"
	"sync"
	"time"
)

// roundWindow is how long after its begin a round is open: the workers of one
// fetch are woken one after the other.
const roundWindow = 2 * time.Millisecond

// rounds lets batches that prepare go through Prepare and the transaction
// together: those that come while a round runs are the next one. Otherwise a
// partition that is free would begin before one that is not, what came together
// would be handled in two parts from then on, each with round trips of its own,
// and a busy machine would get more to do.
type rounds struct {
	patience time.Duration // after which a round holds up nobody

	mu      sync.Mutex
	last    *round        // the one that began last
	waiting []chan *round // buffered 1
}

type round struct {
	began   time.Time
	members int // that have not left
}

// enter returns the round that the batch is in. It waits for the end of one that
// runs, for no longer than patience from its begin.
func (r *rounds) enter(ctx context.Context) *round {
	r.mu.Lock()
	over := r.last == nil || r.last.members == 0 || time.Since(r.last.began) >= r.patience
	if over {
		r.next()
	}
	if over || time.Since(r.last.began) < roundWindow {
		defer r.mu.Unlock()
		r.last.members++
		return r.last
	}
	turn := make(chan *round, 1)
	r.waiting = append(r.waiting, turn)
	overdue := time.NewTimer(time.Until(r.last.began.Add(r.patience)))
	defer overdue.Stop()
	r.mu.Unlock()
	select {
	case own := <-turn:
		return own
	case <-overdue.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	if len(turn) == 0 {
		r.next()
	}
	r.mu.Unlock()
	return <-turn
}

// leave ends the batch's part in its round, and begins the next after the last.
func (r *rounds) leave(own *round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if own.members--; own.members == 0 && own == r.last && len(r.waiting) > 0 {
		r.next()
	}
}

// next begins a round of all that wait, if any. It is called with mu held.
func (r *rounds) next() {
	r.last = &round{began: time.Now(), members: len(r.waiting)}
	for _, turn := range r.waiting {
		turn <- r.last
	}
	r.waiting = nil
}
