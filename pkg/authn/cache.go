package authn

import (
	"crypto/rsa"
	"hash/maphash"
	"sync"
)

const (
	cacheShards = 16
	// The bounds of the whole cache; an entry costs its token plus overhead.
	cacheEntries  = 32 << 10
	cacheBytes    = 24 << 20
	entryOverhead = 200
)

// cache remembers tokens whose signature was verified, by the whole token: a
// token that differs in one bit is another key. Refused tokens are not kept.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu    sync.RWMutex
	m     map[string]entry
	bytes int
}

type entry struct {
	principal Principal
	kid       string
	key       *rsa.PublicKey // what verified it; another key under this kid ends the entry
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].m = map[string]entry{}
	}
	return c
}

func (c *cache) shard(token string) *shard {
	return &c.shards[maphash.String(c.seed, token)%cacheShards]
}

func (c *cache) get(token string) (entry, bool) {
	s := c.shard(token)
	s.mu.RLock()
	e, ok := s.m[token]
	s.mu.RUnlock()
	return e, ok
}

// put adds an entry and makes room for it. Map order decides who leaves: it is
// arbitrary, so nobody can aim at another's entry, and it costs nothing at a hit.
func (c *cache) put(token string, e entry) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.m[token]; !known {
		s.bytes += len(token) + entryOverhead
	}
	s.m[token] = e
	for old := range s.m {
		if len(s.m) <= cacheEntries/cacheShards && s.bytes <= cacheBytes/cacheShards {
			break
		}
		if old != token {
			s.drop(old)
		}
	}
}

func (c *cache) drop(token string) {
	s := c.shard(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(token)
}

func (s *shard) drop(token string) {
	if _, ok := s.m[token]; ok {
		delete(s.m, token)
		s.bytes -= len(token) + entryOverhead
	}
}

// sweep drops the entries that keep refuses, so that the memory of ended
// tokens returns without waiting for the bound.
func (c *cache) sweep(keep func(entry) bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for token, e := range s.m {
			if !keep(e) {
				s.drop(token)
			}
		}
		s.mu.Unlock()
	}
}
