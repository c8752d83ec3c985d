package httpx_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
)

// serve runs a service's server and returns its address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := httpx.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- httpx.ServeListener(ctx, l, h, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

// A service that is asked directly takes no hidden request for one, however its
// own reader and one before it might differ.
func TestNothingIsSmuggledIntoAService(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var seen []string
	m := httpx.NewRouter(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	m.HandleFunc("/*", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.Path)
	})
	addr := serve(t, m)
	for name, raw := range httpxtest.Smuggling("/orders") {
		mu.Lock()
		seen = nil
		mu.Unlock()
		answer := httpxtest.Send(t, addr, raw)
		mu.Lock()
		require.NotContains(t, seen, httpxtest.Smuggled, "%s: %s", name, answer)
		mu.Unlock()
	}
}

func TestConnectionsAreKeptAfterPlainRequestsOnly(t *testing.T) {
	t.Parallel()
	addr := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	const last = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	for request, answers := range map[string]int{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                                                        2,
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}":                                2,
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n":     1,
		"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n":                              1,
		"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 1,
	} {
		require.Equal(t, answers, strings.Count(httpxtest.Send(t, addr, request+last), "HTTP/1."), request)
	}
}

func TestServersBoundHeadsAndTheTimeOfARequest(t *testing.T) {
	t.Parallel()
	srv := httpx.NewServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler), nil)
	for _, limit := range []time.Duration{srv.ReadHeaderTimeout, srv.ReadTimeout} {
		require.Positive(t, limit)
		require.LessOrEqual(t, limit, 30*time.Second, "slow heads and bodies are cut")
	}
	require.Positive(t, srv.WriteTimeout)
	require.Positive(t, srv.IdleTimeout)

	addr := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	head := func(size int) string {
		const begin, end = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: ", "\r\n\r\n"
		return begin + strings.Repeat("a", size-len(begin)-len(end)) + end
	}
	require.Contains(t, httpxtest.Send(t, addr, head(httpx.MaxHead-100)), "HTTP/1.1 200")
	require.Contains(t, httpxtest.Send(t, addr, head(httpx.MaxHead+4096)), "HTTP/1.1 431")
}
