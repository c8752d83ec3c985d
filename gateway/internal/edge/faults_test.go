package edge

import (
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// faultyService does with each connection what its script says, and counts
// those that are open.
func faultyService(t *testing.T, script func(c *net.TCPConn)) (url string, open *atomic.Int64) {
	t.Helper()
	open = &atomic.Int64{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Add(-1)
				defer c.Close()
				readHead(c)
				script(c.(*net.TCPConn))
			}()
		}
	}()
	return "http://" + l.Addr().String(), open
}

// hang waits until the other side gives up.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func TestNoFaultOfAServiceLeaksAConnection(t *testing.T) {
	t.Parallel()
	say := func(c net.Conn, s string) { _, _ = io.WriteString(c, s) }
	for name, f := range map[string]struct {
		script func(c *net.TCPConn)
		status int
		broken bool // the body
	}{
		"hangs":             {func(c *net.TCPConn) { hang(c) }, 504, false},
		"hangs in the head": {func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nContent-"); hang(c) }, 504, false},
		"hangs in a body":   {func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"); hang(c) }, 200, true},
		"hangs in chunks": {func(c *net.TCPConn) {
			say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
			hang(c)
		}, 200, true},
		"resets at once":     {reset, 502, false},
		"resets in the head": {func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nContent-"); reset(c) }, 502, false},
		"resets in a body":   {func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf"); reset(c) }, 200, true},
		"closes in a body":   {func(c *net.TCPConn) { say(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") }, 200, true},
		"garbage":            {func(c *net.TCPConn) { say(c, "\x00\x01\x02garbage\r\n\r\n"); hang(c) }, 502, false},
		"endless interim": {func(c *net.TCPConn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		}, 502, false},
		"more than it said": {func(c *net.TCPConn) {
			say(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			hang(c)
		}, 200, false},
		"an answer to nobody": {func(c *net.TCPConn) {
			say(c, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			hang(c)
		}, 204, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, open := faultyService(t, f.script)
			r := setup(t, options{upstreams: []string{url}, timeout: 200 * time.Millisecond})
			for n := range 12 {
				w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
				resp, err := http.ReadResponse(w.r, &http.Request{Method: "GET"})
				for err == nil && resp.StatusCode < 200 { // interim answers
					resp, err = http.ReadResponse(w.r, &http.Request{Method: "GET"})
				}
				if err != nil { // cut off: nothing of it looks like an answer
					require.True(t, f.broken || name == "endless interim", "%d: %v", n, err)
					continue
				}
				body, err := io.ReadAll(resp.Body)
				require.NotContains(t, string(body), "evil")
				allowed := []int{f.status}
				if name == "endless interim" {
					allowed = append(allowed, http.StatusGatewayTimeout) // bounded by number or by time
				}
				if n > 0 {
					allowed = append(allowed, http.StatusServiceUnavailable) // it rests
				}
				require.True(t, slices.Contains(allowed, resp.StatusCode), "%d: %d %s", n, resp.StatusCode, body)
				if resp.StatusCode == http.StatusOK {
					require.Equal(t, f.broken, err != nil, "%d: %q", n, body)
				}
				if resp.StatusCode >= 500 {
					require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
					require.NotEmpty(t, resp.Header.Get("Retry-After"))
				}
			}
			require.Eventually(t, func() bool { return open.Load() == 0 }, time.Minute, tick, "connections to the service stay open: %d", open.Load())
		})
	}
}

// Every answer that a limit was asked about says so: good ones, refusals of
// every later kind, and failures of the service.
func TestEveryCountedAnswerTellsItsLimits(t *testing.T) {
	t.Parallel()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	rates := map[string]string{"ip": "1000/s", "login": "1000/s", "user": "1000/s"}
	alive := setup(t, options{rates: rates})
	slow := setup(t, options{rates: rates, timeout: 50 * time.Millisecond, service: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })})
	broken := setup(t, options{rates: rates, upstreams: []string{rawService(t, readAndClose)}})
	gone := setup(t, options{rates: rates, upstreams: []string{"http://" + dead.Addr().String()}})
	for _, c := range []struct {
		r            *rig
		method, path string
		token        string
		fields       []string
		status       int
		policies     string
	}{
		{alive, "GET", "/restaurants", "", nil, 200, `^"ip";q=2000;w=2$`},
		{alive, "GET", "/orders", alive.customer, nil, 200, `^"ip";[^ ]*, "user";q=2000;w=2$`},
		{alive, "POST", "/auth/login", "", nil, 200, `^"ip";[^ ]*, "login";q=2000;w=2$`},
		{alive, "GET", "/openapi.json", "", nil, 200, `^"ip";[^ ]*$`},
		{alive, "GET", "/nothing", "", nil, 404, `^"ip";[^ ]*$`},
		{alive, "GET", "/orders", "", nil, 401, `^"ip";[^ ]*$`},
		{alive, "GET", "/admin/users", alive.customer, nil, 403, `^"ip";[^ ]*$`},
		{alive, "GET", "/orders/x/y", alive.customer, nil, 404, `"user";`},
		{alive, "PATCH", "/orders", alive.customer, nil, 405, `"user";`},
		{alive, "POST", "/orders", alive.customer, []string{"Content-Encoding", "gzip"}, 415, `"user";`},
		{slow, "GET", "/restaurants", "", nil, 504, `^"ip";[^ ]*$`},
		{slow, "GET", "/orders", slow.customer, nil, 504, `"user";`},
		{broken, "POST", "/auth/login", "", nil, 502, `"login";`},
		{gone, "GET", "/orders", gone.customer, nil, 503, `"user";`},
	} {
		a := c.r.do(c.method, c.path, c.token, nil, c.fields...)
		require.Equal(t, c.status, a.StatusCode, "%s %s: %s", c.method, c.path, a.body)
		require.Len(t, a.Header.Values("RateLimit-Policy"), 1, c.path)
		require.Regexp(t, c.policies, a.Header.Get("RateLimit-Policy"), "%s %s", c.method, c.path)
		require.Len(t, a.Header.Values("RateLimit"), 1, c.path)
		require.Regexp(t, `^"ip";r=\d+;t=\d+(, "(user|login)";r=\d+;t=\d+)?$`, a.Header.Get("RateLimit"), c.path)
	}
}

func readAndClose(c net.Conn) { readHead(c) }
