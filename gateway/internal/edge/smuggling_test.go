package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
)

// tap is a service that keeps every byte that reaches it, by connection.
type tap struct {
	mu    sync.Mutex
	conns []*bytes.Buffer
}

// tapped is one connection's bytes.
type tapped struct {
	tap *tap
	b   *bytes.Buffer
}

func (c tapped) Write(p []byte) (int, error) {
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	return c.b.Write(p)
}

func (s *tap) open() io.Writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := tapped{s, &bytes.Buffer{}}
	s.conns = append(s.conns, c.b)
	return c
}

// raw returns what has come, by connection.
func (s *tap) raw() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, b := range s.conns {
		all = append(all, b.String())
	}
	return all
}

// listenTap answers requests for as long as a connection lasts.
func listenTap(t *testing.T) (*tap, string) {
	t.Helper()
	s := &tap{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				in := bufio.NewReader(io.TeeReader(c, s.open()))
				for {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return s, "http://" + l.Addr().String()
}

var framing = regexp.MustCompile(`(?i)^\W*(transfer.?enc|content.?length|te\b)[^:]*:`)

// requireOneReading requires that a connection's bytes are requests, none of
// them hidden, each with one plain statement of where it ends. The last may
// have been given up on the way.
func requireOneReading(t *testing.T, raw string) {
	t.Helper()
	for rest := raw; rest != ""; {
		head, _, whole := strings.Cut(rest, "\r\n\r\n")
		require.NotRegexp(t, `[^\r]\n|\r[^\n]|\n[ \t]|\x00`, head)
		require.NotContains(t, head, httpxtest.Smuggled)
		ends := 0
		for line := range strings.SplitSeq(head, "\r\n") {
			if framing.MatchString(line) {
				ends++
				require.Regexp(t, `^(Transfer-Encoding: chunked|Content-Length: \d+)$`, line)
			}
		}
		require.LessOrEqual(t, ends, 1, head)
		if !whole {
			return
		}
		source := strings.NewReader(rest)
		in := bufio.NewReader(source)
		req, err := http.ReadRequest(in)
		require.NoError(t, err, "%q", raw)
		if _, err = io.Copy(io.Discard, req.Body); errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		require.NoError(t, err, "%q", raw)
		require.Empty(t, req.Trailer)
		rest = rest[len(rest)-source.Len()-in.Buffered():]
	}
}

func TestNothingIsSmuggledThroughTheGateway(t *testing.T) {
	t.Parallel()
	service, url := listenTap(t)
	r := setup(t, options{upstreams: []string{url}})
	for name, raw := range httpxtest.Smuggling("/auth/login") {
		answer := httpxtest.Send(t, r.addr, raw)
		require.True(t, strings.HasPrefix(answer, "HTTP/1."), "%s: %q", name, answer)
	}
	require.Equal(t, http.StatusOK, r.do("POST", "/auth/login", "", strings.NewReader("{}")).StatusCode)
	r.stop()
	r.stopped <- <-r.stopped // all that was under way has ended
	require.NotEmpty(t, service.raw())
	for _, raw := range service.raw() {
		requireOneReading(t, raw)
	}
}

// What is sent on is written anew: no extension, trailer or odd spelling of the
// client's is in it, and a request that hides in a body stays in the body.
func TestABodyIsSentOnInOneFraming(t *testing.T) {
	t.Parallel()
	hidden := "GET /admin/users HTTP/1.1\r\nHost: x\r\n\r\n"
	const post = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	for name, request := range map[string]string{
		"with a length":              post + "Content-Length: 38\r\n\r\n" + hidden,
		"with zeros before it":       post + "content-length:   00038\t\r\n\r\n" + hidden,
		"in chunks":                  post + "Transfer-Encoding: chunked\r\n\r\n26\r\n" + hidden + "\r\n0\r\n\r\n",
		"with extension and trailer": post + "tRANSFER-eNCODING:CHUNKED\r\nTrailer: X-T\r\n\r\n" + "0026;a=\"b\"\r\n" + hidden + "\r\n000;z\r\nX-T: y\r\nContent-Length: 5\r\n\r\n",
	} {
		service, url := listenTap(t)
		r := setup(t, options{upstreams: []string{url}})
		w := r.dial().send(request + "GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
		require.Equal(t, http.StatusOK, w.answer("POST").StatusCode, name)
		require.Equal(t, http.StatusOK, w.answer("GET").StatusCode, name)
		raw := strings.Join(service.raw(), "")
		requireOneReading(t, raw)
		in := bufio.NewReader(strings.NewReader(raw))
		req, err := http.ReadRequest(in)
		require.NoError(t, err)
		body, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		require.Equal(t, hidden, string(body), name)
		require.NotRegexp(t, `(?i);|x-t|trailer`, raw, name)
		req, err = http.ReadRequest(in)
		require.NoError(t, err)
		require.Equal(t, "/restaurants", req.RequestURI, name)
	}
}

func TestNoPathLeadsAroundARole(t *testing.T) {
	t.Parallel()
	service, url := listenTap(t)
	r := setup(t, options{upstreams: []string{url}})
	httpxtest.RequireNoWayAround(t, r.addr, r.customer, "/restaurants", "/admin/users")
	httpxtest.RequireNoWayAround(t, r.addr, r.customer, "/orders", "/admin/orders")
	httpxtest.RequireNoWayAround(t, r.addr, "", "/auth", "/auth/sessions")
	require.Empty(t, service.raw(), "nothing of it reached a service")
	// Not even with the role: what is no plain path is no path.
	for _, target := range []string{"/restaurants/%c0%ae%c0%ae/x", "/restaurants/%c0%ae", "/restaurants/%ff", "/restaurants/%ed%a0%80", "/admin%c0%afusers"} {
		a := r.get(target, r.admin)
		require.Equal(t, http.StatusBadRequest, a.StatusCode, "%s: %s", target, a.body)
		require.Equal(t, "/problems/malformed", a.problem(t).Type)
	}
	require.Empty(t, service.raw())
}
