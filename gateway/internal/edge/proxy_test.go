package edge

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

func TestBodies(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	full := strings.Repeat("x", httpx.MaxBody)
	for name, body := range map[string]io.Reader{
		"with a length": strings.NewReader(full),
		"chunked":       io.MultiReader(strings.NewReader(full)),
	} {
		a := r.do("POST", "/auth/login", "", body)
		require.Equal(t, http.StatusOK, a.StatusCode, name)
		require.Contains(t, a.body, full, name)
	}
	for name, body := range map[string]io.Reader{
		"with a length": strings.NewReader(full + "x"),
		"chunked":       io.MultiReader(strings.NewReader(full + "x")),
	} {
		a := r.do("POST", "/auth/login", "", body)
		require.Equal(t, http.StatusRequestEntityTooLarge, a.StatusCode, name)
		require.Equal(t, "/problems/too_large", a.problem(t).Type, name)
	}
	for _, enc := range []string{"gzip", "identity", "br", "x"} {
		a := r.do("POST", "/auth/login", "", strings.NewReader("{}"), "Content-Encoding", enc)
		require.Equal(t, http.StatusUnsupportedMediaType, a.StatusCode, enc)
		require.Equal(t, "/problems/unsupported_media_type", a.problem(t).Type)
	}
	for _, req := range r.requests() {
		require.Empty(t, req.Header["Content-Encoding"])
	}
}

func TestA413ComesBeforeTheBodyIsSent(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n")
	require.Equal(t, http.StatusRequestEntityTooLarge, w.answer("POST").StatusCode)
	w.closed()
}

func TestContinueIsAsked(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	require.Equal(t, http.StatusContinue, w.answer("POST").StatusCode)
	a := w.send("{}").answer("POST")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Contains(t, a.body, `"body":"{}"`)
}

func TestAnEarlyAnswerToAnUploadArrives(t *testing.T) {
	t.Parallel()
	r := setup(t, options{service: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict) // without reading
	})})
	w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + strings.Repeat("x", 1000))
	a := w.answer("POST")
	require.Equal(t, http.StatusConflict, a.StatusCode)
	require.True(t, a.Close)
}

func TestInterimAnswersAndTrailersPass(t *testing.T) {
	t.Parallel()
	r := setup(t, options{rates: map[string]string{"ip": "100/s"}, service: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
	})})
	w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n\r\n")
	require.Equal(t, http.StatusEarlyHints, w.answer("GET").StatusCode)
	a := w.answer("GET")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, "body", a.body)
	require.Equal(t, "42", a.Trailer.Get("X-Sum"))
	require.Equal(t, []string{"mine"}, a.Header.Values("X-Request-ID"), "an interim answer does not take it away")
	require.NotEmpty(t, a.Header.Get("RateLimit"))
	require.Equal(t, "nosniff", a.Header.Get("X-Content-Type-Options"))
}

func TestRequestTrailersAreDropped(t *testing.T) {
	t.Parallel()
	trailer := make(chan http.Header, 1)
	r := setup(t, options{service: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		trailer <- req.Trailer
	})})
	w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nTrailer: X-User-Id\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-User-Id: 1\r\n\r\n")
	require.Equal(t, http.StatusOK, w.answer("POST").StatusCode)
	require.Empty(t, <-trailer)
}

func TestStreamsAreFlushedAtOnceAndOutliveTheTimeLimits(t *testing.T) {
	t.Parallel()
	next, gone := make(chan string), make(chan struct{})
	r := setup(t, options{
		timeout: 200 * time.Millisecond,
		times:   times{head: time.Minute, request: 300 * time.Millisecond},
		service: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			for {
				select {
				case s := <-next:
					_, _ = fmt.Fprintf(w, "data: %s\n\n", s)
					_ = http.NewResponseController(w).Flush()
				case <-req.Context().Done():
					close(gone)
					return
				}
			}
		}),
	})
	w := r.dial().send("GET /orders/" + someID + "/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + r.customer + "\r\nLast-Event-ID: 7\r\n\r\n")
	resp, err := http.ReadResponse(w.r, &http.Request{Method: "GET"})
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.Equal(t, "7", r.requests()[0].Header.Get("Last-Event-ID"))
	pause := time.NewTicker(100 * time.Millisecond) // a second in all, past both limits
	defer pause.Stop()
	for i := range 10 {
		s := fmt.Sprint(i)
		next <- s
		buf := make([]byte, len("data: 0\n\n"))
		_, err := io.ReadFull(resp.Body, buf)
		require.NoError(t, err, "event %d", i)
		require.Equal(t, "data: "+s+"\n\n", string(buf))
		<-pause.C
	}
	w.Close()
	requireClosed(t, gone, "the client's leaving ends the service's part")
}

func TestStreamsEndProperlyAtShutdownAndRequestsFinish(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	r := setup(t, options{service: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "stream") {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
			return
		}
		<-release
		_, _ = io.WriteString(w, "done")
	})})
	stream := r.dial().send("GET /notifications/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + r.customer + "\r\n\r\n")
	resp, err := http.ReadResponse(stream.r, &http.Request{Method: "GET"})
	require.NoError(t, err)
	_, err = io.ReadFull(resp.Body, make([]byte, len("data: 1\n\n")))
	require.NoError(t, err)
	slow := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
	require.Eventually(t, func() bool { return len(r.requests()) == 2 }, patience, tick)
	r.stop()
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err, "the stream has an end, not a break")
	require.Empty(t, rest)
	close(release)
	a := slow.answer("GET")
	require.Equal(t, "done", a.body)
	require.True(t, a.Close)
	_, err = net.Dial("tcp", r.addr)
	require.Error(t, err, "nothing new is accepted")
}

func TestTheClientsLeavingCancelsTheService(t *testing.T) {
	t.Parallel()
	started, gone := make(chan struct{}), make(chan struct{})
	r := setup(t, options{service: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(started)
		<-req.Context().Done()
		close(gone)
	})})
	w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n")
	requireClosed(t, started, "the service is asked")
	w.Close()
	requireClosed(t, gone, "the service's request is cancelled")
	require.Eventually(t, func() bool { return strings.Contains(r.logs.String(), `"status":499`) }, patience, tick)
}
