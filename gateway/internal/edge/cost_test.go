//go:build unix

package edge

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file are not parallel: they measure the whole process.

const leanAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\nContent-Length: 700\r\n\r\n"

// leanService answers every request on a connection with the same bytes.
func leanService(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	whole := []byte(leanAnswer + strings.Repeat("x", 700))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 8<<10)
				for n := 0; ; {
					m, err := c.Read(b[n:])
					if err != nil {
						return
					}
					if n += m; !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
						continue
					}
					n = 0
					if _, err := c.Write(whole); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// leanClient sends the same request again and again.
type leanClient struct {
	net.Conn
	request, answer []byte
	whole           int // bytes of an answer
}

func newLeanClient(t testing.TB, addr, request string) *leanClient {
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	l := &leanClient{Conn: c, request: []byte(request), answer: make([]byte, 8<<10)}
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = c.Write(l.request)
	require.NoError(t, err)
	for !bytes.HasSuffix(l.answer[:l.whole], []byte("xxxx")) {
		n, err := c.Read(l.answer[l.whole:])
		require.NoError(t, err)
		l.whole += n
	}
	require.Contains(t, string(l.answer[:l.whole]), "HTTP/1.1 200 OK\r\n")
	return l
}

// exchange sends and reads an answer of the same length as the first.
func (l *leanClient) exchange() error {
	if _, err := l.Write(l.request); err != nil {
		return err
	}
	_, err := io.ReadFull(l.Conn, l.answer[:l.whole])
	return err
}

func leanRig(t testing.TB) *leanClient {
	r := setup(t, options{upstreams: []string{leanService(t)}, level: slog.LevelWarn, rates: map[string]string{"user": "1000000/s"}})
	const browser = "Host: tiffin.local\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: application/json\r\nAccept-Language: en\r\n"
	return newLeanClient(t, r.addr, "GET /orders/"+someID+" HTTP/1.1\r\n"+browser+"Authorization: Bearer "+r.customer+"\r\n\r\n")
}

// What a request may allocate: the text of two heads, its id, a metric's label,
// and now and then a goroutine's stack. net/http's way needs more than a hundred.
func TestAllocationsPerRequest(t *testing.T) {
	c := leanRig(t)
	perRequest := testing.AllocsPerRun(2000, func() { require.NoError(t, c.exchange()) })
	require.LessOrEqual(t, perRequest, 8.0)
}

// The whole gateway costs less than httputil.ReverseProxy alone. CPU time of the
// process and the best of interleaved rounds, so that a busy machine does not
// matter; client and service are in it on both sides.
func TestARequestCostsLessThanABareReverseProxy(t *testing.T) {
	target, err := url.Parse(leanService(t))
	require.NoError(t, err)
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{DisableCompression: true, IdleConnTimeout: time.Millisecond},
	})
	t.Cleanup(bare.Close)
	ours, theirs := leanRig(t), newLeanClient(t, bare.Listener.Addr().String(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	const requests = 1500
	best := map[*leanClient]time.Duration{ours: time.Hour, theirs: time.Hour}
	for range 5 {
		for _, c := range []*leanClient{ours, theirs} {
			before := processCPU(t)
			for range requests {
				require.NoError(t, c.exchange())
			}
			best[c] = min(best[c], (processCPU(t)-before)/requests)
		}
	}
	t.Logf("CPU per request with client and service: %s, bare ReverseProxy %s", best[ours], best[theirs])
	require.Less(t, best[ours], best[theirs]*7/10)
}

func processCPU(t *testing.T) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkForward is a request with a token that is known, a limit per user
// and an answer of 700 bytes.
func BenchmarkForward(b *testing.B) {
	c := leanRig(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.exchange(); err != nil {
			b.Fatal(err)
		}
	}
}
