package authn

import (
	"context"
	"crypto/rsa"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func (c *cache) size() (entries, bytes int) {
	for i := range c.shards {
		entries += len(c.shards[i].m)
		bytes += c.shards[i].bytes
	}
	return entries, bytes
}

func TestCacheIsBoundedInCountAndBytes(t *testing.T) {
	t.Parallel()
	c := newCache()
	for n := range cacheEntries * 2 {
		c.put(fmt.Sprintf("token %d", n), entry{})
	}
	entries, bytes := c.size()
	require.LessOrEqual(t, entries, cacheEntries)
	require.Greater(t, entries, cacheEntries*9/10)
	require.LessOrEqual(t, bytes, cacheBytes)

	pad := strings.Repeat("x", maxToken)
	for n := range cacheBytes/maxToken + 1000 {
		c.put(fmt.Sprintf("%d %s", n, pad), entry{})
	}
	_, bytes = c.size()
	require.LessOrEqual(t, bytes, cacheBytes)

	c.sweep(func(entry) bool { return false })
	entries, bytes = c.size()
	require.Zero(t, entries)
	require.Zero(t, bytes)
}

func TestCacheKnowsTheNewestAndCountsAReplacedEntryOnce(t *testing.T) {
	t.Parallel()
	c := newCache()
	c.put("a", entry{kid: "1"})
	c.put("a", entry{kid: "2"})
	e, ok := c.get("a")
	require.True(t, ok)
	require.Equal(t, "2", e.kid)
	entries, bytes := c.size()
	require.Equal(t, 1, entries)
	require.Equal(t, 1+entryOverhead, bytes)
	c.drop("a")
	c.drop("a")
	entries, bytes = c.size()
	require.Zero(t, entries+bytes)
}

func TestEndedTokensAreForgotten(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var moved atomic.Bool
	clock := func() time.Time {
		if moved.Load() {
			return now.Add(time.Hour)
		}
		return now
	}
	v := NewVerifier(Config{RefreshInterval: time.Millisecond, Now: clock}, NewKeySet(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	key := &rsa.PublicKey{N: big.NewInt(1), E: 3}
	v.keys.Set(map[string]*rsa.PublicKey{"k": key})
	v.cache.put("ends", entry{kid: "k", key: key, principal: Principal{Expires: now.Add(time.Minute)}})
	v.cache.put("of another key", entry{kid: "x", key: key, principal: Principal{Expires: now.Add(2 * time.Hour)}})
	v.cache.put("stays", entry{kid: "k", key: key, principal: Principal{Expires: now.Add(2 * time.Hour)}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	known := func(token string) bool { _, ok := v.cache.get(token); return ok }
	require.Eventually(t, func() bool { return !known("of another key") }, time.Minute, time.Millisecond)
	require.True(t, known("ends"))
	moved.Store(true)
	require.Eventually(t, func() bool { return !known("ends") }, time.Minute, time.Millisecond)
	require.True(t, known("stays"))
	cancel()
	require.NoError(t, <-done)
}
