package httpx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"
)

// Bounds of every server. Streams lift the read and write limits for themselves.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second // head and body: a slow sender is cut
	writeTimeout      = 60 * time.Second
	idleTimeout       = 2 * time.Minute
	shutdownTimeout   = 10 * time.Second
	// MaxHead is the largest request head in bytes; more is answered with 431.
	MaxHead = 64 << 10
)

type stoppingKey struct{}

// NewServer returns a server with our bounds whose streams end when stopping
// is closed.
func NewServer(h http.Handler, log *slog.Logger, stopping <-chan struct{}) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    MaxHead - 4096, // net/http allows 4096 more
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), stoppingKey{}, stopping)
		},
	}
}

// Listen opens addr; a taken port is named in the error.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (is another process using the port? set HTTP_ADDR or ADMIN_ADDR to move): %w", addr, err)
	}
	return l, nil
}

// Serve answers on addr until ctx ends, then lets requests finish for up to
// 10 s; streams end at once so that their clients reconnect elsewhere.
func Serve(ctx context.Context, addr string, h http.Handler, log *slog.Logger) error {
	l, err := Listen(ctx, addr)
	if err != nil {
		return err
	}
	return ServeListener(ctx, l, h, log)
}

// ServeListener is Serve on an open listener, which it closes. A service that
// opens its port before it says that it is ready lets no client find it closed.
func ServeListener(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	log.Info("http listening", "addr", l.Addr().String())
	debug.FreeOSMemory() // what only the start needed: migrations, hashing, templates
	stopping := make(chan struct{})
	srv := NewServer(closing(h), log, stopping)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	close(stopping)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests were cut at shutdown", "after", shutdownTimeout.String())
		err = srv.Close()
	}
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// closing ends the connection after a request whose end two readers could see
// in two places. net/http does not tell that a request in chunks had a
// Content-Length as well, or one of HTTP/1.0 a Transfer-Encoding, and would go
// on; RFC 9112 §6.1 wants the close.
func closing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
