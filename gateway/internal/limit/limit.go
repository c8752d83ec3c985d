// Package limit keeps rate limits for many clients in bounded memory.
//
// A Limiter is a token bucket (golang.org/x/time/rate) per client. Clients that
// have rested until their bucket is full are forgotten: a new bucket is full as
// well, so nothing is lost. When the table is full all the same, a newcomer
// takes over the fullest of a few sampled buckets with what is left in it. So
// a flood of invented clients cannot use up memory, and cannot win tokens by
// pushing its own spent buckets out.
package limit

import (
	"context"
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

// Key names a client: an address or a user.
type Key [16]byte

// UserKey is the key of a user.
func UserKey(id uuid.UUID) Key { return Key(id) }

// AddrKey is the key of an address. IPv6 clients own a whole /64 each, so all
// of it counts as one.
func AddrKey(a netip.Addr) Key {
	a = a.Unmap()
	k := Key(a.As16())
	if a.Is6() {
		clear(k[8:])
	}
	return k
}

const (
	shardCount = 64
	sampled    = 5 // buckets looked at when a full shard needs room
	sweepEvery = time.Minute
)

// DefaultCapacity is how many clients a limiter remembers; about 13 MiB when full.
const DefaultCapacity = 1 << 16

// Limiter limits each client to a rate. A nil *Limiter lets everything pass.
type Limiter struct {
	name     string
	rate     Rate
	policy   string // its item of RateLimit-Policy
	shards   [shardCount]shard
	perShard int
	seed     maphash.Seed
	now      func() time.Time
}

type shard struct {
	mu      sync.Mutex
	clients map[Key]*rate.Limiter
}

// New returns a limiter that remembers up to capacity clients, or nil when the
// rate is off. The name is what clients see in the RateLimit fields.
func New(name string, r Rate, capacity int, now func() time.Time) *Limiter {
	if r.Off() {
		return nil
	}
	l := &Limiter{name: name, rate: r, perShard: max(capacity/shardCount, 1), seed: maphash.MakeSeed(), now: now}
	l.policy = policyItem(name, r.Burst(), l.refill(float64(r.Burst())))
	for i := range l.shards {
		l.shards[i].clients = map[Key]*rate.Limiter{}
	}
	return l
}

// Verdict is the outcome of one request.
type Verdict struct {
	OK         bool
	Remaining  int           // requests left now
	Reset      time.Duration // until the quota is whole again
	RetryAfter time.Duration // until the next request may pass, when not OK
}

// Take counts one request of the client.
func (l *Limiter) Take(k Key) Verdict {
	if l == nil {
		return Verdict{OK: true}
	}
	s := &l.shards[maphash.Comparable(l.seed, k)%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := l.now()
	bucket := s.clients[k]
	if bucket == nil {
		bucket = l.admit(s, k, now)
	}
	v := Verdict{OK: bucket.AllowN(now, 1)}
	tokens := max(bucket.TokensAt(now), 0)
	v.Remaining = int(tokens)
	v.Reset = l.refill(float64(l.rate.Burst()) - tokens)
	if !v.OK {
		v.RetryAfter = l.refill(1 - tokens)
	}
	return v
}

// refill returns how long it takes until that many tokens have come.
func (l *Limiter) refill(tokens float64) time.Duration {
	return time.Duration(math.Ceil(tokens / float64(l.rate.limit()) * float64(time.Second)))
}

// admit gives a client that is not in the table a bucket: its own, or when the
// shard is full the fullest of a few others'.
func (l *Limiter) admit(s *shard, k Key, now time.Time) *rate.Limiter {
	if len(s.clients) < l.perShard {
		b := rate.NewLimiter(l.rate.limit(), l.rate.Burst())
		s.clients[k] = b
		return b
	}
	var victim Key
	var best *rate.Limiter
	looked := 0
	for key, b := range s.clients { // Go starts at a random place
		if best == nil || b.TokensAt(now) > best.TokensAt(now) {
			victim, best = key, b
		}
		if looked++; looked == sampled {
			break
		}
	}
	delete(s.clients, victim)
	s.clients[k] = best
	return best
}

// Run forgets rested clients until ctx ends.
func (l *Limiter) Run(ctx context.Context) error {
	if l == nil {
		return nil
	}
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			l.Sweep()
		}
	}
}

// Sweep forgets the clients whose bucket is full again.
func (l *Limiter) Sweep() {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		now := l.now()
		before := len(s.clients)
		for k, b := range s.clients {
			if b.TokensAt(now) >= float64(l.rate.Burst()) {
				delete(s.clients, k)
			}
		}
		if len(s.clients) < before/2 { // maps do not shrink by themselves
			smaller := make(map[Key]*rate.Limiter, len(s.clients))
			for k, b := range s.clients {
				smaller[k] = b
			}
			s.clients = smaller
		}
		s.mu.Unlock()
	}
}

// Clients returns how many clients are remembered.
func (l *Limiter) Clients() int {
	if l == nil {
		return 0
	}
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.clients)
		s.mu.Unlock()
	}
	return n
}
