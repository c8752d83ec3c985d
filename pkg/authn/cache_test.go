package authn

import (
	"fmt"
	"strings"
	"testing"

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
