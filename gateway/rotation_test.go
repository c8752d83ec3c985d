package main

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

// signer is a signing key of an issuer that rotates them.
type signer struct {
	kid string
	key *rsa.PrivateKey
}

func newSigner(t *testing.T, kid string) signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return signer{kid, key}
}

// tokens returns tokens of n users that end at a time.
func (s signer) tokens(t *testing.T, n int, end time.Time) []string {
	t.Helper()
	list := make([]string, n)
	for i := range list {
		token, err := authn.Mint(s.key, s.kid, authn.Claims{
			Issuer: authntest.TestIssuer, Audience: []string{authntest.TestAudience}, Subject: uuid.Must(uuid.NewV7()), Role: authn.Customer,
			SessionID: uuid.Must(uuid.NewV7()), ID: uuid.NewString(), IssuedAt: time.Now().Unix(), Expires: end.Unix(),
		})
		require.NoError(t, err)
		list[i] = token
	}
	return list
}

// issuer publishes keys and counts who asks.
type issuer struct {
	url     string
	body    atomic.Pointer[[]byte]
	fetches atomic.Int64
}

func (i *issuer) publish(t *testing.T, keys ...signer) {
	t.Helper()
	var set authn.JWKS
	for _, k := range keys {
		set.Keys = append(set.Keys, authn.NewJWK(k.kid, &k.key.PublicKey))
	}
	body, err := json.Marshal(set)
	require.NoError(t, err)
	i.body.Store(&body)
}

// fetched waits until what is published now has been fetched.
func (i *issuer) fetched(t *testing.T) {
	t.Helper()
	seen := i.fetches.Load()
	require.Eventually(t, func() bool { return i.fetches.Load() >= seen+2 }, time.Minute, 10*time.Millisecond)
}

// bootWithIssuer runs a gateway without limits whose keys are the issuer's.
func bootWithIssuer(t *testing.T, change map[string]string, keys ...signer) (*issuer, *servicetest.Running) {
	t.Helper()
	i := &issuer{}
	i.publish(t, keys...)
	i.url = listen(t, func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		_, _ = w.Write(*i.body.Load())
	})
	s := settings(authntest.New(t), listen(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	s["JWKS_URL"], s["RATE_LIMIT_IP"], s["RATE_LIMIT_USER"] = i.url, "off", "off"
	for name, v := range change {
		s[name] = v
	}
	return i, servicetest.Boot(t, quietRun, s)
}

// asker sends requests with tokens on one connection.
type asker struct {
	t  *testing.T
	c  net.Conn
	in *bufio.Reader
}

func newAsker(t *testing.T, g *servicetest.Running) *asker {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(g.HTTP, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return &asker{t, c, bufio.NewReader(c)}
}

func (a *asker) get(token string) int {
	require.NoError(a.t, a.c.SetDeadline(time.Now().Add(time.Minute)))
	_, err := io.WriteString(a.c, "GET /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\n\r\n")
	require.NoError(a.t, err)
	resp, err := http.ReadResponse(a.in, nil)
	require.NoError(a.t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(a.t, err)
	return resp.StatusCode
}

func TestKeyRotationUnderLoadRefusesNoValidToken(t *testing.T) {
	const workers, rate = 8, 2000 // requests a second, all together; a busy machine gets fewer
	a, b := newSigner(t, "a"), newSigner(t, "b")
	i, g := bootWithIssuer(t, map[string]string{"JWKS_REFRESH_INTERVAL": "1s", "JWKS_REFRESH_COOLDOWN": "1s"}, a)

	later := time.Now().Add(time.Hour)
	var current atomic.Pointer[[]string]
	use := func(list []string) { current.Store(&list) }
	use(a.tokens(t, 100, later))
	var sent, refused atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range workers {
		c := newAsker(t, g)
		wg.Go(func() {
			tick := time.NewTicker(workers * time.Second / rate)
			defer tick.Stop()
			for n := w; ; n++ {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				list := *current.Load()
				if c.get(list[n%len(list)]) != http.StatusOK {
					refused.Add(1)
				}
				sent.Add(1)
			}
		})
	}
	start := time.Now()

	// The next key is published, then signs; the tokens of the old one live on.
	i.publish(t, a, b)
	i.fetched(t)
	end := time.Now().Add(3 * time.Second)
	old := a.tokens(t, 1, end)[0]
	end = end.Truncate(time.Second)
	use(b.tokens(t, 100, later))
	c := newAsker(t, g)
	for {
		before := time.Now()
		status := c.get(old)
		if before.After(end) {
			require.Equal(t, http.StatusUnauthorized, status, "an old token dies at its end")
			break
		}
		if time.Now().Before(end) {
			require.Equal(t, http.StatusOK, status, "and not before")
		}
	}

	// A removed key's tokens die at the next refresh, whatever they say.
	removed := a.tokens(t, 1, later)[0]
	require.Equal(t, http.StatusOK, c.get(removed))
	i.publish(t, b)
	i.fetched(t)
	require.Equal(t, http.StatusUnauthorized, c.get(removed))

	close(stop)
	wg.Wait()
	t.Logf("%d requests, %.0f/s, %d refused", sent.Load(), float64(sent.Load())/time.Since(start).Seconds(), refused.Load())
	require.Greater(t, sent.Load(), int64(100))
	require.Zero(t, refused.Load(), "of %d", sent.Load())
}

// What 2,000 tokens with random kids, 16 at a time, cost others is in the log;
// what they cost the issuer is one fetch per cooldown.
func TestForgedKidsCostTheIssuerOneFetchPerCooldown(t *testing.T) {
	const forged, attackers, cooldown = 2000, 16, 2 * time.Second
	a := newSigner(t, "a")
	i, g := bootWithIssuer(t, map[string]string{"JWKS_REFRESH_INTERVAL": "1h", "JWKS_REFRESH_COOLDOWN": cooldown.String()}, a)
	good := a.tokens(t, 1, time.Now().Add(time.Hour))[0]
	c := newAsker(t, g)
	latencies := func(until func(n int) bool) []time.Duration {
		var list []time.Duration
		for n := 0; !until(n); n++ {
			start := time.Now()
			require.Equal(t, http.StatusOK, c.get(good))
			list = append(list, time.Since(start))
		}
		return list
	}
	quiet := latencies(func(n int) bool { return n == 1000 })

	mint := func(kid func() string) [][]string {
		lists := make([][]string, attackers)
		for w := range lists {
			for range forged / attackers {
				lists[w] = append(lists[w], signer{kid(), a.key}.tokens(t, 1, time.Now().Add(time.Hour))...)
			}
		}
		return lists
	}
	crowd := func(lists [][]string, want int) []time.Duration { // all lists at once
		var running atomic.Int64
		var wg sync.WaitGroup
		for _, list := range lists {
			running.Add(1)
			e := newAsker(t, g)
			wg.Go(func() {
				defer running.Add(-1)
				for _, token := range list {
					require.Equal(t, want, e.get(token))
				}
			})
		}
		defer wg.Wait()
		return latencies(func(int) bool { return running.Load() == 0 })
	}
	crowded := crowd(mint(func() string { return a.kid }), http.StatusOK)
	evil := mint(uuid.NewString)
	before, start := i.fetches.Load(), time.Now()
	attacked := crowd(evil, http.StatusUnauthorized)
	took := time.Since(start)
	fetches := i.fetches.Load() - before
	t.Logf("%d forged kids in %s: %d fetches; a good client's p99 %s alone, %s beside as many good requests, %s beside the forged ones",
		forged, took.Round(time.Millisecond), fetches, p99(quiet), p99(crowded), p99(attacked))
	require.LessOrEqual(t, fetches, int64(took/cooldown)+1)
}

func p99(list []time.Duration) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)*99/100].Round(time.Microsecond)
}
