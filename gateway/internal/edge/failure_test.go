package edge

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestASlowServiceIsA504(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 3)
	r := setup(t, options{timeout: 100 * time.Millisecond, service: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
		gone <- struct{}{}
	})})
	a := r.get("/restaurants", "")
	require.Equal(t, http.StatusGatewayTimeout, a.StatusCode)
	require.Equal(t, "/problems/upstream", a.problem(t).Type)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	<-gone
	require.Equal(t, http.StatusGatewayTimeout, r.do("POST", "/auth/login", "", strings.NewReader("{}")).StatusCode)
	require.Equal(t, http.StatusGatewayTimeout, r.get("/orders/"+someID+"/events", r.customer).StatusCode, "a stream whose head does not come")
}

// rawService answers each connection with what its script says.
func rawService(t *testing.T, script func(c net.Conn)) string {
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
			script(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return "http://" + l.Addr().String()
}

// readHead reads a request's head.
func readHead(c net.Conn) {
	var b []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if _, err := c.Read(one); err != nil {
			return
		}
		b = append(b, one[0])
	}
}

func TestBrokenAnswersAreA502(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{
		"nothing":        "",
		"garbage":        "SSH-2.0-OpenSSH_9.6\r\n",
		"half a head":    "HTTP/1.1 200 OK\r\nContent-Le",
		"bad status":     "HTTP/1.1 abc\r\n\r\n",
		"switch":         "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
		"two lengths":    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
		"huge head":      "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 200<<10) + "\r\n\r\n",
		"unknown coding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t, options{upstreams: []string{rawService(t, func(c net.Conn) {
				readHead(c)
				_, _ = io.WriteString(c, reply)
			})}})
			a := r.get("/restaurants", "")
			require.Equal(t, http.StatusBadGateway, a.StatusCode, a.body)
			require.Equal(t, "/problems/upstream", a.problem(t).Type)
			require.Equal(t, "1", a.Header.Get("Retry-After"))
			require.NotContains(t, a.body, "127.0.0.1", "nothing internal is told")
		})
	}
}

func TestAnAnswerThatBreaksOffBreaksOffForTheClientToo(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]string{
		"with a length": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunked":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"bad chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
	} {
		r := setup(t, options{upstreams: []string{rawService(t, func(c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, reply)
		})}})
		w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, err := http.ReadResponse(w.r, &http.Request{Method: "GET"}); err == nil {
			_, err = io.ReadAll(resp.Body)
			require.Error(t, err, "a half answer must not look whole: "+name)
		}
	}
}

func TestADeadServiceIsA503AndOneThatIsBackIsAskedAtOnce(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	r := setup(t, options{upstreams: []string{"http://" + addr}})
	for range 5 {
		a := r.do("POST", "/auth/login", "", strings.NewReader("{}"))
		require.Equal(t, http.StatusServiceUnavailable, a.StatusCode)
		require.Equal(t, "/problems/upstream", a.problem(t).Type)
		require.Equal(t, "1", a.Header.Get("Retry-After"))
	}
	l, err = net.Listen("tcp", addr)
	require.NoError(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(echo)}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	require.Equal(t, http.StatusOK, r.do("POST", "/auth/login", "", strings.NewReader("{}")).StatusCode)
}

func TestAHungServiceIsLetRestAndProbed(t *testing.T) {
	t.Parallel()
	c := newClock()
	var healthy atomic.Bool
	var asked atomic.Int32
	r := setup(t, options{now: c.now, timeout: time.Second, service: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		if !healthy.Load() {
			<-req.Context().Done()
		}
	})})
	for range 3 {
		require.Equal(t, http.StatusGatewayTimeout, r.get("/restaurants", "").StatusCode)
	}
	for range 5 {
		a := r.get("/restaurants", "")
		require.Equal(t, http.StatusServiceUnavailable, a.StatusCode, "refused at once")
		require.Equal(t, "1", a.Header.Get("Retry-After"))
	}
	require.Equal(t, http.StatusOK, r.get("/openapi.json", "").StatusCode, "the rest works")
	c.pass(time.Second)
	require.Equal(t, http.StatusGatewayTimeout, r.get("/restaurants", "").StatusCode, "a probe")
	require.Equal(t, http.StatusServiceUnavailable, r.get("/restaurants", "").StatusCode, "which failed")
	require.LessOrEqual(t, asked.Load(), int32(4))
	healthy.Store(true)
	c.pass(2 * time.Second)
	for range 5 {
		require.Equal(t, http.StatusOK, r.get("/restaurants", "").StatusCode, "a probe that succeeds ends it")
	}
}

func TestOnlyIdempotentRequestsAreSentAgain(t *testing.T) {
	t.Parallel()
	var posts atomic.Int32
	r := setup(t, options{upstreams: []string{rawService(t, func(c net.Conn) {
		// The first request on a connection is answered, the second one read and dropped.
		readHead(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		var head []byte
		one := make([]byte, 1)
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			if _, err := c.Read(one); err != nil {
				return
			}
			head = append(head, one[0])
		}
		if bytes.HasPrefix(head, []byte("POST")) {
			posts.Add(1)
		}
	})}})
	require.Equal(t, http.StatusOK, r.get("/restaurants", "").StatusCode)
	require.Equal(t, http.StatusOK, r.get("/restaurants", "").StatusCode, "a GET on a stale connection is sent again")
	path := "/orders/" + someID + "/cancel"
	require.Equal(t, http.StatusBadGateway, r.do("POST", path, r.customer, nil, "Idempotency-Key", "k", "X-Idempotency-Key", "k").StatusCode,
		"a POST is not, whatever the client says about it")
	require.EqualValues(t, 1, posts.Load())
}

func TestLeastOutstandingAndFailover(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	var busy, idle atomic.Int32
	slow := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		busy.Add(1)
		select {
		case <-hold:
		case <-req.Context().Done():
		}
	})
	fast := serve(t, func(http.ResponseWriter, *http.Request) { idle.Add(1) })
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	r := setup(t, options{upstreams: []string{slow, "http://" + dead.Addr().String(), fast}})
	waiting := make(chan answer, 1)
	go func() {
		for busy.Load() == 0 { // until one request got the slow replica
			a := r.do("POST", "/auth/login", "", strings.NewReader("{}"))
			if busy.Load() == 1 {
				waiting <- a
				return
			}
		}
	}()
	require.Eventually(t, func() bool { return busy.Load() == 1 }, patience, tick)
	before := idle.Load()
	for range 50 {
		require.Equal(t, http.StatusOK, r.do("POST", "/auth/login", "", strings.NewReader("{}")).StatusCode, "the dead replica costs no request, not even a POST")
	}
	require.EqualValues(t, 1, busy.Load(), "the busy replica gets no more")
	require.EqualValues(t, 50, idle.Load()-before)
	close(hold)
	require.Equal(t, http.StatusOK, (<-waiting).StatusCode)
}

func TestAReplicaThatRestartsCostsNoIdempotentRequest(t *testing.T) {
	t.Parallel()
	var addrs []string
	var servers [2]*http.Server
	start := func(i int, addr string) string {
		l, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		srv := &http.Server{Handler: http.HandlerFunc(echo)}
		servers[i] = srv
		go func() { _ = srv.Serve(l) }()
		return l.Addr().String()
	}
	for i := range servers {
		addrs = append(addrs, start(i, "127.0.0.1:0"))
	}
	defer func() { servers[0].Close(); servers[1].Close() }()
	r := setup(t, options{upstreams: []string{"http://" + addrs[0], "http://" + addrs[1]}})
	ctx, cancel := context.WithCancel(t.Context())
	failed, sent := make(chan string, 100), atomic.Int32{}
	var workers [4]chan struct{}
	for i := range workers {
		workers[i] = make(chan struct{})
		go func() {
			defer close(workers[i])
			for ctx.Err() == nil {
				if a := r.get("/restaurants", ""); a.StatusCode != http.StatusOK {
					failed <- a.body
				}
				sent.Add(1)
			}
		}()
	}
	for round := range 6 {
		i := round % 2
		target := sent.Load() + 50
		require.Eventually(t, func() bool { return sent.Load() > target }, patience, tick)
		servers[i].Close() // at once: open connections are cut
		target = sent.Load() + 50
		require.Eventually(t, func() bool { return sent.Load() > target }, patience, tick)
		start(i, addrs[i])
	}
	cancel()
	for _, w := range workers {
		<-w
	}
	close(failed)
	for f := range failed {
		require.Fail(t, "a request failed", f)
	}
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}
