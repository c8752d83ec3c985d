package upstream

import (
	"bufio"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

// service answers each connection as its script says.
func service(t *testing.T, script func(net.Conn, *bufio.Reader)) (*Pool, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				script(c, bufio.NewReader(c))
			}()
		}
	}()
	addr := l.Addr().String()
	p := pool(&url.URL{Scheme: "http", Host: addr, Path: "/base/"})
	t.Cleanup(func() { p.Close(); l.Close(); <-done })
	return p, addr
}

func pool(u *url.URL) *Pool {
	reg := prometheus.NewRegistry()
	return NewPool("order", []*url.URL{u}, NewMetrics(reg), reg, time.Now)
}

// readAll reads an answer to its end.
func readAll(resp *Response) (string, error) {
	defer resp.Close()
	var body strings.Builder
	for {
		piece, err := resp.Next()
		if errors.Is(err, http1.ErrMore) {
			if err = resp.Wait(); err == nil {
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			return body.String(), nil
		}
		if err != nil {
			return body.String(), err
		}
		body.Write(piece)
	}
}

func TestThePathOfAnAddressComesBeforeTheRequests(t *testing.T) {
	t.Parallel()
	p, addr := service(t, func(c net.Conn, in *bufio.Reader) {
		req, err := http.ReadRequest(in)
		if err == nil {
			_, _ = fmt.Fprintf(c, "HTTP/1.0 200 OK\r\n\r\n%s %s", req.RequestURI, req.Host)
		}
	})
	req := request("GET", "")
	req.Target = "/orders/a%3Fb?x=%2F"
	resp, err := p.Do(req)
	require.NoError(t, err)
	body, err := readAll(resp)
	require.NoError(t, err)
	require.Equal(t, "/base/orders/a%3Fb?x=%2F "+addr, body)
	require.Zero(t, p.addresses[0].outstanding.Load())
}

func TestAConnectionIsKeptOnlyWhenNothingOfTheAnswerIsLeft(t *testing.T) {
	t.Parallel()
	for reply, kept := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":                      true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":      true,
		"HTTP/1.1 204 No Content\r\n\r\n":                                     true,
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n":              true,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok": false,
		"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok":                      false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n":   false,
		"HTTP/1.1 204 No Content\r\n\r\nx":                                    false,
	} {
		p, _ := service(t, func(c net.Conn, in *bufio.Reader) {
			for {
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				_, _ = io.WriteString(c, reply)
			}
		})
		resp, err := p.Do(request("GET", ""))
		require.NoError(t, err, reply)
		_, err = readAll(resp)
		require.NoError(t, err, reply)
		require.Equal(t, kept, len(p.addresses[0].idle) == 1, reply)
	}
}

// After a restart every kept connection is dead. That costs no request, not
// even one that may not be sent twice.
func TestConnectionsThatEndedWhileTheyRestedCostNothing(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	var held atomic.Int32
	p, _ := service(t, func(c net.Conn, in *bufio.Reader) {
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		if held.Add(1) <= 5 {
			<-hang
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") // and closes
	})
	a := p.addresses[0]
	fill := func() {
		held.Store(0)
		hang = make(chan struct{})
		errs := make(chan error, 5)
		for range cap(errs) {
			go func() {
				resp, err := p.Do(request("GET", ""))
				if err == nil {
					_, err = readAll(resp)
				}
				errs <- err
			}()
		}
		require.Eventually(t, func() bool { return held.Load() == 5 }, time.Minute, time.Millisecond)
		close(hang)
		for range cap(errs) {
			require.NoError(t, <-errs)
		}
		require.Eventually(t, func() bool {
			for _, c := range a.idle {
				if c.below.Quiet() {
					return false
				}
			}
			return len(a.idle) == 5
		}, time.Minute, time.Millisecond)
		held.Store(100)
	}
	for _, method := range []string{"GET", "POST"} {
		fill()
		resp, err := p.Do(request(method, ""))
		require.NoError(t, err, method)
		_, err = readAll(resp)
		require.NoError(t, err)
		require.LessOrEqual(t, len(a.idle), 1, "the others are closed too")
		a.closeIdle(time.Time{})
	}
}

// An answer too many must not become the answer to somebody else's request.
func TestBytesThatNobodyAskedForAreNobodysAnswer(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	p, _ := service(t, func(c net.Conn, in *bufio.Reader) {
		for n := 1; ; n++ {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.RequestURI), req.RequestURI)
			if req.RequestURI == "/base/first" {
				<-more
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				more <- struct{}{}
			}
		}
	})
	ask := func(target string) string {
		req := request("GET", "")
		req.Target = target
		resp, err := p.Do(req)
		require.NoError(t, err)
		body, err := readAll(resp)
		require.NoError(t, err)
		return body
	}
	require.Equal(t, "/base/first", ask("/first"))
	require.Len(t, p.addresses[0].idle, 1, "it was kept, for nothing had come yet")
	kept := p.addresses[0].idle[0]
	more <- struct{}{}
	<-more
	require.Eventually(t, func() bool { return !kept.below.Quiet() }, time.Minute, time.Millisecond)
	require.Equal(t, "/base/second", ask("/second"))
}

func TestConnectionsThatRestForLongAreClosed(t *testing.T) {
	t.Parallel()
	a := &address{}
	now := time.Now()
	var others []net.Conn
	for i := range 4 {
		ours, other := net.Pipe()
		others = append(others, other)
		a.idle = append(a.idle, &conn{Conn: ours, since: now.Add(time.Duration(i) * time.Minute)})
	}
	a.closeIdle(now.Add(2 * time.Minute))
	require.Len(t, a.idle, 2)
	require.Equal(t, now.Add(2*time.Minute), a.idle[0].since)
	for i, c := range others[:2] {
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, i)
	}
	a.closeIdle(time.Time{})
	require.Empty(t, a.idle)
}

func TestWhoWaitsIsAskedNowAndThen(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 1)
	p, _ := service(t, func(_ net.Conn, in *bufio.Reader) {
		_, _ = http.ReadRequest(in)
		_, err := in.ReadByte() // until the gateway closes
		gone <- err
	})
	why := errors.New("enough")
	req := request("GET", "")
	asked := 0
	req.Interrupted = func() error {
		if asked++; asked == 3 {
			return why
		}
		return nil
	}
	_, err := p.Do(req)
	require.ErrorIs(t, err, why)
	require.Equal(t, io.EOF, <-gone)
	require.Zero(t, p.resting())

	req = request("GET", "")
	req.Interrupted = func() error { return nil }
	req.Deadline = time.Now().Add(120 * time.Millisecond)
	_, err = p.Do(req)
	require.ErrorIs(t, err, ErrTimeout)
	require.False(t, time.Now().Before(req.Deadline))
	<-gone
}

func TestEndlessInterimAnswersAreBroken(t *testing.T) {
	t.Parallel()
	p, _ := service(t, func(c net.Conn, in *bufio.Reader) {
		_, _ = http.ReadRequest(in)
		for {
			if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
				return
			}
		}
	})
	req := request("GET", "")
	seen := 0
	req.Interim = func(*http1.Response) error { seen++; return nil }
	_, err := p.Do(req)
	require.ErrorContains(t, err, "interim")
	require.Equal(t, maxInterim, seen)
}

// It is not parallel: Go reads the system's authorities once.
func TestAServiceBehindTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(srv.Close)
	authorities := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	require.NoError(t, os.WriteFile(authorities, block, 0o600))
	t.Setenv("SSL_CERT_FILE", authorities)
	u, err := url.Parse(srv.URL)
	require.NoError(t, err)
	p := pool(u)
	t.Cleanup(p.Close)
	for range 3 {
		resp, err := p.Do(request("POST", "hello"))
		require.NoError(t, err)
		body, err := readAll(resp)
		require.NoError(t, err)
		require.Equal(t, "hello", body)
		require.Len(t, p.addresses[0].idle, 1)
	}
	p.addresses[0].url.Host = "other.example" // whatever is dialled, its certificate must be for this
	p.Close()
	_, err = p.Do(request("GET", ""))
	require.ErrorContains(t, err, "certificate")
}
