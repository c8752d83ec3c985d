package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// drainTimeout is how long requests may go on when the gateway stops.
const drainTimeout = 20 * time.Second

// times bound how long a client may take to send a request.
type times struct{ head, request time.Duration }

// requestTimes are the times outside tests; request counts from the first byte
// to the last of the body.
var requestTimes = times{head: 10 * time.Second, request: 30 * time.Second}

type connKey struct{}

// Serve answers on l, which it closes, until ctx ends; then streams end, and
// other requests may finish for up to 20 s.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	srv := httpx.NewServer(g.handler, g.log, g.stopping)
	srv.ReadHeaderTimeout, srv.ReadTimeout = g.times.head, g.times.request
	srv.WriteTimeout = 0 // conn limits each write instead, so that streams may last
	srv.DisableGeneralOptionsHandler = true
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(&listener{Listener: l, gateway: g}) }()
	g.log.Info("http listening", "addr", l.Addr().String())
	select {
	case err := <-done:
		return fmt.Errorf("serve http: %w", err)
	case <-ctx.Done():
	}
	close(g.stopping)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		g.log.Warn("requests were cut at shutdown", "after", drainTimeout.String())
		g.hurry.Store(true)
		err = srv.Close()
	}
	if end := <-done; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// listener gives every connection its watcher.
type listener struct {
	net.Listener
	gateway *Gateway
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, answer: l.gateway.answerNative, hurry: &l.gateway.hurry}, nil
}
