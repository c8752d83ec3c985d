package edge

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// smuggled is what must never be taken for a request.
const smuggled = "GET /restaurants/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

func TestAmbiguousFramingIsAnsweredAndTheConnectionClosed(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	const post = "POST /auth/login HTTP/1.1\r\nHost: x\r\n"
	for name, request := range map[string]string{
		"length and chunked":             post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked and length":             post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"length 0 and chunked":           post + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"in other case":                  post + "CONTENT-LENGTH: 5\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
		"GET with both":                  "GET /restaurants HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"keep-alive with both":           post + "Connection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked in HTTP/1.0":            "POST /auth/login HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked and length in HTTP/1.0": "POST /auth/login HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":                    post + "Content-Length: 0\r\nContent-Length: 48\r\n\r\n",
		"the same length twice":          post + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"a list of lengths":              post + "Content-Length: 0, 0\r\n\r\n",
		"signed length":                  post + "Content-Length: +0\r\n\r\n",
		"negative length":                post + "Content-Length: -1\r\n\r\n",
		"hexadecimal length":             post + "Content-Length: 0x0\r\n\r\n",
		"empty length":                   post + "Content-Length:\r\n\r\n",
		"huge length":                    post + "Content-Length: 99999999999999999999\r\n\r\n",
		"two encodings":                  post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked, identity":              post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"gzip, chunked":                  post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":                       post + "Transfer-Encoding: identity\r\n\r\n",
		"xchunked":                       post + "Transfer-Encoding: xchunked\r\n\r\n",
		"quoted chunked":                 post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
		"vertical tab":                   post + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
		"space before the colon":         post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"tab before the colon":           post + "Content-Length\t: 0\r\n\r\n",
		"folded encoding":                post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
		"folded field":                   post + "X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"first line folded":              "POST /auth/login HTTP/1.1\r\n Host: x\r\nContent-Length: 0\r\n\r\n",
		"bare line feeds":                "POST /auth/login HTTP/1.1\nHost: x\nContent-Length: 0\n\n",
		"one bare line feed":             "POST /auth/login HTTP/1.1\r\nHost: x\nContent-Length: 0\r\n\r\n",
		"bare line feed at the end":      post + "Content-Length: 0\r\n\n",
		"bare carriage return":           post + "X: a\rContent-Length: 48\r\nContent-Length: 0\r\n\r\n",
		"NUL in a value":                 post + "X: a\x00b\r\nContent-Length: 0\r\n\r\n",
		"no name":                        post + ": x\r\nContent-Length: 0\r\n\r\n",
		"no colon":                       post + "X\r\nContent-Length: 0\r\n\r\n",
		"no host":                        "POST /auth/login HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
		"two hosts":                      post + "Host: y\r\nContent-Length: 0\r\n\r\n",
		"bad host":                       "POST /auth/login HTTP/1.1\r\nHost: a b\r\nContent-Length: 0\r\n\r\n",
		"no version":                     "GET /restaurants\r\n\r\n",
		"unknown version":                "GET /restaurants HTTP/3.0\r\nHost: x\r\n\r\n",
		"bad version":                    "GET /restaurants HTTP/1.x\r\nHost: x\r\n\r\n",
		"spaces in the target":           "GET /restaurants x HTTP/1.1\r\nHost: x\r\n\r\n",
		"unknown expectation":            post + "Expect: the-unexpected\r\nContent-Length: 0\r\n\r\n",
		"not HTTP":                       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := r.dial().send(request + smuggled)
			a := w.answer("POST")
			require.Equal(t, http.StatusBadRequest, a.StatusCode, a.body)
			require.Equal(t, "/problems/malformed", a.problem(t).Type)
			require.True(t, a.Close, "the answer announces the close")
			w.closed()
		})
	}
	t.Cleanup(func() {
		for _, req := range r.requests() {
			require.Fail(t, "reached a service", "%s %s", req.Method, req.RequestURI)
		}
	})
}

func TestBadChunksEndTheConnection(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no number":            "x\r\nhello\r\n0\r\n\r\n",
		"negative":             "-5\r\nhello\r\n0\r\n\r\n",
		"signed":               "+5\r\nhello\r\n0\r\n\r\n",
		"prefix":               "0x5\r\nhello\r\n0\r\n\r\n",
		"empty":                "\r\nhello\r\n0\r\n\r\n",
		"overflow":             "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"too long":             "5\r\nhelloX\r\n0\r\n\r\n",
		"too short":            "5\r\nhell\r\n0\r\n\r\n",
		"bare line feed":       "5\nhello\r\n0\r\n\r\n",
		"line feed after":      "5\r\nhello\n0\r\n\r\n",
		"line feed at the end": "5\r\nhello\r\n0\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := setup(t, options{})
			w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body + smuggled)
			a := w.answer("POST")
			if a.StatusCode != http.StatusBadRequest {
				// net/http reads some of these; then the next request is refused.
				require.Equal(t, http.StatusOK, a.StatusCode, a.body)
				a = w.answer("GET")
			}
			require.Equal(t, http.StatusBadRequest, a.StatusCode, a.body)
			a.problem(t)
			w.closed()
			for _, req := range r.requests() {
				require.NotContains(t, req.RequestURI, "smuggled")
			}
		})
	}
}

func TestGoodFramingKeepsTheConnection(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	w := r.dial()
	get := "GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n"
	for i, request := range []string{
		get,
		"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
		"\r\n" + get, // an empty line after a POST is skipped
		"POST /auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;ext=1\r\n0123456789\r\n0\r\nX-Trailer: y\r\n\r\n",
		"POST /auth/login HTTP/1.1\r\nHost: x\r\ntransfer-ENCODING:\tCHUNKED \r\n\r\n0\r\n\r\n",
		"POST /auth/login HTTP/1.1\r\nHost: x\r\ncontent-length: 00005\r\n\r\nhello",
		"GET /restaurants HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"PATCH /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", // refused, yet in step
		get,
	} {
		a := w.send(request).answer("GET")
		require.NotEqual(t, http.StatusBadRequest, a.StatusCode, "%d: %s", i, a.body)
		require.False(t, a.Close, i)
	}
	// The same in one go, and byte by byte.
	w = r.dial().send(strings.Repeat(get, 20))
	for range 20 {
		require.Equal(t, http.StatusOK, w.answer("GET").StatusCode)
	}
	w = r.dial()
	for _, b := range []byte("POST /auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + get) {
		w.send(string(b))
	}
	require.Equal(t, http.StatusOK, w.answer("POST").StatusCode)
	require.Equal(t, http.StatusOK, w.answer("GET").StatusCode)
	// HTTP/1.0 without an encoding is served.
	a := r.dial().send("GET /restaurants HTTP/1.0\r\n\r\n").answer("GET")
	require.Equal(t, http.StatusOK, a.StatusCode)
}

func TestAGoodRequestBeforeABadOneIsServed(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	w := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n\r\n" +
		"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled)
	require.Equal(t, http.StatusOK, w.answer("GET").StatusCode)
	require.Equal(t, http.StatusBadRequest, w.answer("POST").StatusCode)
	w.closed()
	require.Len(t, r.requests(), 1)
}

func TestHeadsOver64KiB(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	head := func(size int) string {
		s := "GET /restaurants HTTP/1.1\r\nHost: x\r\nX-Long: "
		return s + strings.Repeat("a", size-len(s)-4) + "\r\n\r\n"
	}
	require.Equal(t, http.StatusOK, r.dial().send(head(64<<10-100)).answer("GET").StatusCode)
	for name, request := range map[string]string{
		"one field":   head(64<<10 + 4096),
		"many fields": "GET /restaurants HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 20_000) + "\r\n",
		"the target":  "GET /restaurants/" + strings.Repeat("a", 70_000) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"no end":      "GET /restaurants HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("a", 80_000),
	} {
		w := r.dial()
		go func() { _, _ = io.WriteString(w, request+smuggled) }()
		a := w.answer("GET")
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, a.StatusCode, "%s: %s", name, a.body)
		require.Equal(t, "/problems/head_too_large", a.problem(t).Type)
		require.True(t, a.Close)
	}
	require.Len(t, r.requests(), 1)
}

// drip sends a byte now and then until the connection ends.
func (w *wire) drip() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := io.WriteString(w, "X"); err != nil {
			return
		}
	}
}

func TestSlowHeadsAreCut(t *testing.T) {
	t.Parallel()
	require.LessOrEqual(t, requestTimes.head, 30*time.Second)
	r := setup(t, options{times: times{head: 300 * time.Millisecond, request: time.Minute}})
	w := r.dial()
	start := time.Now()
	w.send("GET /restaurants HTTP/1.1\r\nHost: x\r\n")
	done := make(chan struct{})
	go func() { defer close(done); w.drip() }()
	_, _ = io.ReadAll(w.r) // until the gateway closes, with or without an answer
	require.Less(t, time.Since(start), patience/2)
	w.Close()
	<-done
	require.Empty(t, r.requests())
}

func TestSlowBodiesAreCut(t *testing.T) {
	t.Parallel()
	require.LessOrEqual(t, requestTimes.request, 30*time.Second)
	r := setup(t, options{times: times{head: time.Minute, request: 300 * time.Millisecond}})
	for _, framing := range []string{"Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n3E8\r\n"} {
		w := r.dial()
		start := time.Now()
		w.send("POST /auth/login HTTP/1.1\r\nHost: x\r\n" + framing)
		done := make(chan struct{})
		go func() { defer close(done); w.drip() }()
		a := w.answer("POST")
		require.Equal(t, http.StatusBadRequest, a.StatusCode, framing)
		require.Contains(t, a.problem(t).Detail, "slowly")
		w.closed()
		require.Less(t, time.Since(start), patience/2)
		w.Close()
		<-done
	}
}

// A close with unread bytes would be a reset, which takes the answer with it.
func TestARefusalIsNotLostWhileTheBodyStillComes(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	w := r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2000000\r\n\r\n" + strings.Repeat("x", 1000))
	require.Eventually(t, func() bool { return strings.Contains(r.logs.String(), `"status":413`) }, patience, tick)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for range 10 {
		<-pause.C
		w.send(strings.Repeat("x", 1000))
	}
	require.Equal(t, http.StatusRequestEntityTooLarge, w.answer("POST").StatusCode)
}

func TestManySlowClientsDoNotDisturbOthers(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for i := range 200 {
		if i%2 == 0 {
			r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\nX: ")
		} else {
			r.dial().send("POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
		}
	}
	for range 50 {
		require.Equal(t, http.StatusOK, r.get("/restaurants", "").StatusCode)
	}
}
