package upstream

import (
	"sync"
	"time"
)

const (
	// failuresToRest is how many failures in a row put a replica to rest. One
	// refused connection is enough: nobody listens there.
	failuresToRest = 3
	restMin        = 500 * time.Millisecond
	// restMax is short: a probe is one request, and a replica that is back
	// should not be kept waiting.
	restMax = 2 * time.Second
	// probeRetry is what clients are told while a probe runs.
	probeRetry = time.Second
)

// breaker decides whether a replica gets requests. After failures it rests,
// longer each time; then one request at a time probes it; a success ends it.
type breaker struct {
	mu       sync.Mutex
	failures int // in a row
	rests    int // in a row
	until    time.Time
	cheap    bool // the last failure was a refused connection, which costs nothing
	probing  bool
}

// resting returns how long the replica still rests, at most 0 when it may be
// asked, and whether asking it all the same is cheap.
func (b *breaker) resting(now time.Time) (rest time.Duration, cheap bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rests == 0 {
		return 0, false
	}
	if b.probing {
		return probeRetry, b.cheap
	}
	return b.until.Sub(now), b.cheap
}

// enter takes the right to ask a replica that does not rest; false when it has
// just gone to rest or another request is the probe.
func (b *breaker) enter(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rests == 0 {
		return true
	}
	if b.probing || b.until.After(now) {
		return false
	}
	b.probing = true
	return true
}

func (b *breaker) succeeded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.rests, b.probing, b.cheap = 0, 0, false, false
}

// undecided ends a try that says nothing about the replica.
func (b *breaker) undecided() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

func (b *breaker) refused(now time.Time) { b.count(now, failuresToRest, true) }

func (b *breaker) failed(now time.Time) { b.count(now, 1, false) }

func (b *breaker) count(now time.Time, weight int, cheap bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures += weight
	b.cheap = cheap
	if b.failures < failuresToRest && !b.probing {
		return
	}
	if b.until.After(now) && !b.probing {
		return // requests that were under way when the rest began
	}
	b.until = now.Add(min(restMin<<min(b.rests, 8), restMax))
	b.rests++
	b.probing = false
}
