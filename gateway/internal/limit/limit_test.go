package limit_test

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/gateway/internal/limit"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func mustRate(t *testing.T, s string) limit.Rate {
	t.Helper()
	r, err := limit.ParseRate(s)
	require.NoError(t, err)
	return r
}

func key(n uint64) limit.Key {
	var k limit.Key
	binary.BigEndian.PutUint64(k[:], n)
	return k
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	require.Equal(t, limit.Rate{Count: 100, Per: time.Second}, mustRate(t, "100/s"))
	require.Equal(t, limit.Rate{Count: 20, Per: time.Minute}, mustRate(t, "20/m"))
	require.Equal(t, limit.Rate{Count: 5, Per: time.Hour}, mustRate(t, "5/h"))
	require.True(t, mustRate(t, "off").Off())
	for _, bad := range []string{"", "100", "0/s", "-1/s", "1.5/s", "100/d", "100/", "/s", "s/100", "99999999/s", " 1/s", "OFF"} {
		_, err := limit.ParseRate(bad)
		require.Error(t, err, bad)
	}
}

func TestABurstOfTwiceTheNumberThenTheRate(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := limit.New("login", mustRate(t, "20/m"), 10_000, c.now)
	for i := range 40 {
		v := l.Take(key(1))
		require.True(t, v.OK, i)
		require.Equal(t, 39-i, v.Remaining)
	}
	v := l.Take(key(1))
	require.False(t, v.OK)
	require.Zero(t, v.Remaining)
	require.Equal(t, 3*time.Second, v.RetryAfter)
	require.Equal(t, 2*time.Minute, v.Reset)
	require.True(t, l.Take(key(2)).OK, "another client has its own bucket")

	c.pass(v.RetryAfter - time.Millisecond)
	require.False(t, l.Take(key(1)).OK)
	c.pass(time.Millisecond)
	require.True(t, l.Take(key(1)).OK, "who waits Retry-After gets in")
	require.False(t, l.Take(key(1)).OK)
}

func TestOffLetsEverythingPassAndAnnouncesNothing(t *testing.T) {
	t.Parallel()
	l := limit.New("ip", mustRate(t, "off"), 10_000, time.Now)
	var f limit.Fields
	for range 10_000 {
		v := l.Take(key(1))
		require.True(t, v.OK)
		l.Announce(&f, v)
	}
	require.Empty(t, f.Append(nil))
	require.Zero(t, l.Clients())
	require.NoError(t, l.Run(t.Context()))
}

func TestFieldsListEveryPolicyThatApplied(t *testing.T) {
	t.Parallel()
	c := newClock()
	ip := limit.New("ip", mustRate(t, "100/s"), 10_000, c.now)
	user := limit.New("user", mustRate(t, "50/s"), 10_000, c.now)
	var f limit.Fields
	ip.Announce(&f, ip.Take(key(1)))
	user.Take(key(1))
	user.Announce(&f, user.Take(key(1)))
	require.Equal(t, "RateLimit-Policy: \"ip\";q=200;w=2, \"user\";q=100;w=2\r\n"+
		"RateLimit: \"ip\";r=199;t=1, \"user\";r=98;t=1\r\n", string(f.Append(nil)))
	f.Reset()
	require.Empty(t, f.Append(nil))
}

func TestReplicasShareTheRate(t *testing.T) {
	t.Parallel()
	require.Equal(t, 100, mustRate(t, "100/s").Divide(2).Burst())
	require.Equal(t, 1, mustRate(t, "1/m").Divide(10).Burst(), "never nothing")
}

func TestIPv6ClientsCountPerNetwork(t *testing.T) {
	t.Parallel()
	a := limit.AddrKey(netip.MustParseAddr("2001:db8:1:2::1"))
	require.Equal(t, a, limit.AddrKey(netip.MustParseAddr("2001:db8:1:2:ffff::9")))
	require.NotEqual(t, a, limit.AddrKey(netip.MustParseAddr("2001:db8:1:3::1")))
	v4 := limit.AddrKey(netip.MustParseAddr("192.0.2.1"))
	require.Equal(t, v4, limit.AddrKey(netip.MustParseAddr("::ffff:192.0.2.1")))
	require.NotEqual(t, v4, limit.AddrKey(netip.MustParseAddr("192.0.2.2")))
}

func TestRestedClientsAreForgotten(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := limit.New("ip", mustRate(t, "10/s"), 10_000, c.now)
	for i := range uint64(1000) {
		l.Take(key(i))
	}
	for range 20 {
		l.Take(key(1)) // spends all of its bucket
	}
	c.pass(time.Second)
	l.Sweep()
	require.Equal(t, 1, l.Clients(), "only the one that is still owing")
	require.Equal(t, 9, l.Take(key(1)).Remaining, "and it still owes")
	c.pass(time.Minute)
	l.Sweep()
	require.Zero(t, l.Clients())
}

func TestAMillionClientsStayInBoundedMemoryAndLimited(t *testing.T) {
	c := newClock()
	l := limit.New("ip", mustRate(t, "1/s"), limit.DefaultCapacity, c.now)
	before := heap()
	passed := 0
	for i := range uint64(1_000_000) {
		if l.Take(key(i)).OK {
			passed++
		}
	}
	grown := heap() - before
	require.LessOrEqual(t, l.Clients(), limit.DefaultCapacity)
	require.Less(t, grown, int64(20<<20), "bytes")
	// The clock stood still, so no bucket was refilled: all of the flood got
	// what the table holds and no more, instead of a request per client.
	require.LessOrEqual(t, passed, limit.DefaultCapacity*2)
	runtime.KeepAlive(l)
}

func TestNewcomersAreLimitedWhenTheTableIsFull(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := limit.New("ip", mustRate(t, "1/s"), 64, c.now) // one client per shard
	denied := false
	for i := range uint64(1000) {
		denied = denied || !l.Take(key(i)).OK
	}
	require.True(t, denied, "a newcomer inherits what the evicted client left")
	c.pass(2 * time.Second)
	require.True(t, l.Take(key(5000)).OK, "and is served again after a rest")
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkTake(b *testing.B) {
	l := limit.New("user", limit.Rate{Count: 1e6, Per: time.Second}, limit.DefaultCapacity, time.Now)
	b.ReportAllocs()
	var i uint64
	for b.Loop() {
		i++
		l.Take(key(i % 1000))
	}
}
