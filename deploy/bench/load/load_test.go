package load

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const request = "GET /orders HTTP/1.1\r\nHost: bench\r\n\r\n"

func listen(t *testing.T, answer []byte) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- Serve(l, answer) }()
	t.Cleanup(func() {
		_ = l.Close()
		require.ErrorIs(t, <-served, net.ErrClosed)
	})
	return l.Addr().String()
}

func TestOnceSendsEachRequestOnce(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path]++
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(s.Close)
	var requests [][]byte
	want := map[string]int{}
	for i := range 50 {
		path := "/" + strconv.Itoa(i)
		want[path] = 1
		requests = append(requests, []byte("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"))
	}
	target := Target{Addr: s.Listener.Addr().String(), Requests: requests, Status: "401"}
	require.NoError(t, Once(t.Context(), target, 4))
	require.Equal(t, want, seen)
	target.Status = ""
	require.ErrorContains(t, Once(t.Context(), target, 4), "401")
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	addr := listen(t, Answer([]byte(`{"items":[]}`)))
	o, err := Closed(t.Context(), Target{Addr: addr, Requests: [][]byte{[]byte(request)}}, 3, 50*time.Millisecond)
	require.NoError(t, err)
	require.Greater(t, o.Requests, 10)
	require.Len(t, o.Latencies, o.Requests)
	require.Positive(t, o.Quantile(0.5))
}

func TestOpenLoopSendsAllOnTime(t *testing.T) {
	t.Parallel()
	addr := listen(t, Answer([]byte(`{}`)))
	began := time.Now()
	o, err := Open(t.Context(), Target{Addr: addr, Requests: [][]byte{[]byte(request)}}, 8, 1000, 100*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, 100, o.Requests)
	require.GreaterOrEqual(t, time.Since(began), 99*time.Millisecond)
	for _, l := range o.Latencies {
		require.Positive(t, l)
	}
}

// One stall of the server makes the requests behind it late, and their
// latencies say so although each of them was answered at once.
func TestOpenLoopCountsFromWhenARequestWasDue(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 10 {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(s.Close)
	o, err := Open(t.Context(), Target{Addr: s.Listener.Addr().String(), Requests: [][]byte{[]byte(request)}}, 1, 500, 200*time.Millisecond)
	require.NoError(t, err)
	require.Greater(t, o.Quantile(0.75), 20.0)
}

func TestWhatIsNotAnAnswerFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ answer, want string }{
		"refused":   {"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno", `answered "HTTP/1.1 429 Too Many Requests"`},
		"no length": {"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := listen(t, []byte(c.answer))
			_, err := Closed(t.Context(), Target{Addr: addr, Requests: [][]byte{[]byte(request)}}, 1, time.Second)
			require.ErrorContains(t, err, c.want)
			_, err = Open(t.Context(), Target{Addr: addr, Requests: [][]byte{[]byte(request)}}, 1, 100, time.Second)
			require.ErrorContains(t, err, c.want)
		})
	}
}
