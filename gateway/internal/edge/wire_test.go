package edge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// recording is a service that keeps every byte it gets and answers when it has
// seen an end.
type recording struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func (s *recording) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

// wait reads until what came since begin ends so.
func (s *recording) wait(c net.Conn, end string) bool {
	b := make([]byte, 4096)
	s.mu.Lock()
	begin := s.got.Len()
	s.mu.Unlock()
	for {
		n, err := c.Read(b)
		s.mu.Lock()
		s.got.Write(b[:n])
		done := bytes.HasSuffix(s.got.Bytes()[begin:], []byte(end))
		s.mu.Unlock()
		if done || err != nil {
			return done
		}
	}
}

// What passes is written anew, so whatever a client wrote a service reads one
// request, with one length.
func TestAServiceGetsExactlyThese(t *testing.T) {
	t.Parallel()
	const head = "Host: ADDR\r\n"
	const tail = "X-Forwarded-For: 127.0.0.1\r\nX-Request-ID: i\r\n"
	for name, c := range map[string]struct{ sent, end, want string }{
		"GET": {
			"GET /%72estaurants?a=%2f HTTP/1.1\r\nHost: evil\r\nX-Request-ID: i\r\nACCEPT:\t a \t\r\nConnection: keep-alive\r\n\r\n", "\r\n\r\n",
			"GET /restaurants?a=%2f HTTP/1.1\r\n" + head + "accept: a\r\n" + tail + "\r\n",
		},
		"HEAD": {
			"HEAD /restaurants HTTP/1.1\r\nHost: x\r\nX-Request-ID: i\r\nContent-Length: 4\r\n\r\nbody", "\r\n\r\n",
			"GET /restaurants HTTP/1.1\r\n" + head + tail + "\r\n",
		},
		"HTTP/1.0": {
			"GET http://evil/restaurants HTTP/1.0\r\nX-Request-ID: i\r\nConnection: keep-alive\r\n\r\n", "\r\n\r\n",
			"GET /restaurants HTTP/1.1\r\n" + head + tail + "\r\n",
		},
		"a length": {
			"POST /auth/login HTTP/1.1\r\nHost: x\r\nX-Request-ID: i\r\nContent-Length: 0004\r\nExpect: 100-Continue\r\n\r\nbody", "body",
			"POST /auth/login HTTP/1.1\r\n" + head + tail + "Content-Length: 4\r\n\r\nbody",
		},
		"chunks that have all come": {
			"POST /auth/login HTTP/1.1\r\nHost: x\r\nX-Request-ID: i\r\nTransfer-Encoding: CHUNKED\r\nTrailer: Content-Length\r\n\r\n" +
				"0002;a=\"b;c\"\r\nbo\r\n2 ; x\r\ndy\r\n000;y\r\nContent-Length: 9\r\nX: y\r\n\r\n", "body",
			"POST /auth/login HTTP/1.1\r\n" + head + tail + "Content-Length: 4\r\n\r\nbody",
		},
		"no body": {
			"POST /auth/logout HTTP/1.1\r\nHost: x\r\nX-Request-ID: i\r\n\r\n", "\r\n\r\n",
			"POST /auth/logout HTTP/1.1\r\n" + head + tail + "Content-Length: 0\r\n\r\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &recording{}
			addr := rawService(t, func(conn net.Conn) {
				if s.wait(conn, c.end) {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
				_, _ = io.Copy(io.Discard, conn)
			})
			r := setup(t, options{upstreams: []string{addr}})
			a := r.dial().send(c.sent).answer(strings.Split(c.sent, " ")[0])
			require.Equal(t, http.StatusOK, a.StatusCode, a.body)
			require.Equal(t, strings.ReplaceAll(c.want, "ADDR", strings.TrimPrefix(addr, "http://")), s.String())
		})
	}
}

// A body that has not come in full is passed on as it comes, in its own framing.
func TestUploadsArePassedOnAsTheyCome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ framing, first, second, wantFirst, wantSecond string }{
		"chunked":     {"Transfer-Encoding: chunked\r\n\r\n", "5;x\r\nhello\r\n", "3\r\nyou\r\n0\r\nX: y\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "3\r\nyou\r\n0\r\n\r\n"},
		"with length": {"Content-Length: 20003\r\n\r\n", strings.Repeat("x", 20000), "you", "Content-Length: 20003\r\n\r\n" + strings.Repeat("x", 20000), "you"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &recording{}
			more := make(chan struct{})
			r := setup(t, options{upstreams: []string{rawService(t, func(conn net.Conn) {
				if !s.wait(conn, c.wantFirst) {
					return
				}
				close(more) // only now the client goes on
				if s.wait(conn, c.wantSecond) {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
				_, _ = io.Copy(io.Discard, conn)
			})}})
			w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\n" + c.framing + c.first)
			requireClosed(t, more, "the first part reaches the service")
			a := w.send(c.second).answer("POST")
			require.Equal(t, "ok", a.body)
			require.False(t, a.Close, "nothing is left of the body")
			require.Equal(t, http.StatusOK, w.send("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").answer("GET").StatusCode)
		})
	}
}

func TestTheClientsLeavingDuringAnUploadCancelsTheService(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan error, 1)
	r := setup(t, options{upstreams: []string{rawService(t, func(conn net.Conn) {
		readHead(conn)
		close(begun)
		_, err := io.Copy(io.Discard, conn)
		gone <- err
	})}})
	w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\nx")
	requireClosed(t, begun, "the service is asked")
	w.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		require.Fail(t, "the service's connection is still open")
	}
	require.Eventually(t, func() bool { return strings.Contains(r.logs.String(), `"msg":"request"`) }, patience, tick)
}

// A service that takes no more of an upload and does not answer either is cut
// by the route's time limit.
func TestAnUploadThatIsNotTakenIsA504(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	defer close(hold)
	r := setup(t, options{timeout: 300 * time.Millisecond, upstreams: []string{rawService(t, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(4096)
		<-hold
	})}})
	w := r.dial()
	go func() {
		_, _ = io.WriteString(w, "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000000))
	}()
	a := w.answer("POST")
	require.Equal(t, http.StatusGatewayTimeout, a.StatusCode)
}

func TestAnswersInEveryFraming(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789abcdef", 10_000)
	for name, c := range map[string]struct{ reply, body string }{
		"a length":            {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"},
		"chunked":             {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello"},
		"until close":         {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", "hello"},
		"HTTP/1.0":            {"HTTP/1.0 200 OK\r\n\r\nhello", "hello"},
		"nothing":             {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
		"no content":          {"HTTP/1.1 204 No Content\r\n\r\n", ""},
		"not modified":        {"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n", ""},
		"long, with a length": {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), long},
		"long, chunked":       {fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long), long},
		"long, until close":   {"HTTP/1.0 200 OK\r\n\r\n" + long, long},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t, options{upstreams: []string{rawService(t, func(conn net.Conn) {
				readHead(conn)
				_, _ = io.WriteString(conn, c.reply)
			})}})
			const target = " /restaurants HTTP/1.1\r\nHost: x\r\n\r\n"
			w := r.dial()
			for range 2 { // in step afterwards
				a := w.send("GET" + target).answer("GET")
				require.Less(t, a.StatusCode, 400, a.body)
				require.True(t, c.body == a.body, "body of %d bytes", len(a.body))
				require.False(t, a.Close)
				require.Len(t, a.Header.Values("Date"), 1)
				require.Empty(t, w.send("HEAD"+target).answer("HEAD").body)
			}
			w = r.dial().send("GET /restaurants HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			all, err := io.ReadAll(w.r)
			require.NoError(t, err)
			head, body, _ := strings.Cut(string(all), "\r\n\r\n")
			require.True(t, c.body == body, "body of %d bytes", len(body))
			require.NotContains(t, head, "chunked", "HTTP/1.0 does not know it")
		})
	}
}

// HTTP/1.0 has no other way to tell the end of such an answer from its loss.
func TestAHalfAnswerToHTTP10EndsInAReset(t *testing.T) {
	t.Parallel()
	r := setup(t, options{upstreams: []string{rawService(t, func(conn net.Conn) {
		readHead(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
	})}})
	_, err := io.ReadAll(r.dial().send("GET /restaurants HTTP/1.0\r\n\r\n").r)
	require.ErrorContains(t, err, "reset")
}

func TestHTTP10GetsNoInterimAnswer(t *testing.T) {
	t.Parallel()
	r := setup(t, options{upstreams: []string{rawService(t, func(conn net.Conn) {
		readHead(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})}})
	a := r.dial().send("GET /restaurants HTTP/1.0\r\n\r\n").answer("GET")
	require.Equal(t, http.StatusOK, a.StatusCode)
	w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
	a = w.answer("GET")
	require.Equal(t, http.StatusEarlyHints, a.StatusCode, "and nobody a 100 that was not asked for")
	require.Equal(t, "x", a.Header.Get("Link"))
}

func TestTrailersOfAnswersCannotClaimEither(t *testing.T) {
	t.Parallel()
	r := setup(t, options{upstreams: []string{rawService(t, func(conn net.Conn) {
		readHead(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 42\r\nContent-Length: 7\r\nX-Request-ID: theirs\r\n\r\n")
	})}})
	w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
	var all string
	for strings.Count(all, "\r\n\r\n") < 2 { // the head's end and the body's
		line, err := w.r.ReadString('\n')
		require.NoError(t, err)
		all += line
	}
	_, body, _ := strings.Cut(all, "\r\n\r\n")
	require.Equal(t, "1\r\nx\r\n0\r\nx-sum: 42\r\n\r\n", body)
}

// Whoever does not read what he asked for holds a service only for so long.
func TestAClientThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	short := requestTimes
	short.write = 100 * time.Millisecond
	r := setup(t, options{times: short, service: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 64<<10)
		for {
			if _, err := w.Write(piece); err != nil {
				close(gone)
				return
			}
		}
	})})
	r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
	requireClosed(t, gone, "the service is cut off")
}

func TestWhoConnectsAndSaysNothingIsCut(t *testing.T) {
	t.Parallel()
	short := requestTimes
	short.head = 200 * time.Millisecond
	r := setup(t, options{times: short})
	r.dial().closed()
	w := r.dial().send("\r\n") // which is not even the begin of one
	w.closed()
}

func TestSlowHeadsOfLaterRequestsAreCutToo(t *testing.T) {
	t.Parallel()
	short := requestTimes
	short.head = time.Second
	r := setup(t, options{times: short})
	w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Equal(t, http.StatusOK, w.answer("GET").StatusCode)
	start := time.Now()
	w.send("GET")
	done := make(chan struct{})
	go func() { defer close(done); w.drip() }()
	_, _ = io.ReadAll(w.r)
	require.Less(t, time.Since(start), patience-time.Second)
	w.Close()
	<-done
}

// A connection that was used for one large request waits for the next in little
// memory.
func TestALargeHeadIsForgotten(t *testing.T) {
	t.Parallel()
	var g *Gateway
	r := setup(t, options{change: func(made *Gateway) { g = made }})
	w := r.dial()
	for _, size := range []int{1, 60_000, 1} {
		w.send("GET /restaurants HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", size) + "\r\n\r\n")
		require.Equal(t, http.StatusOK, w.answer("GET").StatusCode)
		require.Eventually(t, func() bool {
			small := false
			g.conns.each(func(c *conn) { small = c.idle.Load() && c.in.Size() == readBuffer && len(c.x.req.Fields) < 3 })
			return small
		}, patience, tick, size)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	r := setup(t, options{change: func(g *Gateway) { g.conns.slots = make(chan struct{}, 2) }})
	const get = "GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n"
	first, second := r.dial().send(get), r.dial().send(get)
	require.Equal(t, http.StatusOK, first.answer("GET").StatusCode)
	require.Equal(t, http.StatusOK, second.answer("GET").StatusCode)
	third := r.dial().send(get)
	require.NoError(t, third.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	_, err := third.r.Peek(1)
	var timeout net.Error
	require.True(t, errors.As(err, &timeout) && timeout.Timeout(), "it waits")
	require.NoError(t, third.SetReadDeadline(time.Now().Add(patience)))
	first.Close()
	require.Equal(t, http.StatusOK, third.answer("GET").StatusCode)
}

func TestIdleConnectionsEndAtOnceAtShutdown(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	used, fresh := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n"), r.dial()
	require.Equal(t, http.StatusOK, used.answer("GET").StatusCode)
	r.stop()
	used.closed()
	fresh.closed()
}

func TestAPanicIsA500AndTheGatewayGoesOn(t *testing.T) {
	t.Parallel()
	r := setup(t, options{change: func(g *Gateway) { delete(g.cfg.Upstreams, Auth) }})
	a := r.do("POST", "/auth/login", "", nil)
	require.Equal(t, http.StatusInternalServerError, a.StatusCode)
	require.Equal(t, "/problems/internal", a.problem(t).Type)
	require.Contains(t, r.logs.String(), `"msg":"panic in a handler"`)
	require.Equal(t, http.StatusOK, r.get("/restaurants", "").StatusCode)
}

func TestABadRequestHasNothingOfTheOneBefore(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for name, bad := range map[string]string{
		"unreadable": "GET /restaurants HTTP/1.1\nHost: x\r\n\r\n",
		"refused":    "GET /restaurants HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
	} {
		w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n\r\n" + bad)
		require.Equal(t, "mine", w.answer("GET").Header.Get("X-Request-ID"))
		require.NotEqual(t, "mine", w.answer("GET").problem(t).RequestID, name)
	}
}

func TestTheLogLineNamesWhoAndWhere(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	a := r.get("/orders", r.customer, "X-Request-ID", "mine")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Eventually(t, func() bool { return strings.Contains(r.logs.String(), `"request_id":"mine"`) }, patience, tick)
	require.Regexp(t, `"method":"GET","route":"/orders","path":"/orders","status":200,"bytes":\d+,"ms":[\d.]+,"client":"127.0.0.1","user_id":"[0-9a-f-]{36}","upstream":"127.0.0.1:\d+"`, r.logs.String())
}

// The gateway keeps what a client pipelines while it looks whether it is there.
func TestRequestsThatComeWhileAServiceIsWaitedForAreAnsweredInTurn(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	release := make(chan struct{})
	r := setup(t, options{service: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			<-release
		}
		_, _ = fmt.Fprint(w, n.Load())
	})})
	const get = "GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n"
	w := r.dial().send(get)
	require.Eventually(t, func() bool { return n.Load() == 1 }, patience, tick)
	w.send(strings.Repeat(get, 200)) // more than the buffer holds
	time.AfterFunc(300*time.Millisecond, func() { close(release) })
	for i := range 201 {
		require.Equal(t, fmt.Sprint(i+1), w.answer("GET").body)
	}
}
