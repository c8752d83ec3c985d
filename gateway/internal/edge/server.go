package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// drainTimeout is how long requests may go on when the gateway stops.
	drainTimeout = 20 * time.Second
	// idleTimeout is how long a connection is kept without a request, at least
	// half of it.
	idleTimeout = 2 * time.Minute
	// maxConns is how many clients are connected at once; others wait.
	maxConns = 10_000
	// acceptRetry is the pause after an error that passes, such as too many open
	// files.
	acceptRetry = 50 * time.Millisecond
)

// times bound how long a client may take to send a request, and to accept a
// piece of its answer.
type times struct{ head, request, write time.Duration }

// requestTimes are the times outside tests; request counts from the first byte
// to the last of the body.
var requestTimes = times{head: 10 * time.Second, request: 30 * time.Second, write: 30 * time.Second}

// conns are the connections of clients.
type conns struct {
	slots chan struct{}
	all   sync.WaitGroup
	mu    sync.Mutex
	open  map[*conn]bool
}

func (s *conns) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = true
}

func (s *conns) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// each calls f for every open connection.
func (s *conns) each(f func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		f(c)
	}
}

// Serve answers on l, which it closes, until ctx ends; then streams end, and
// other requests may finish for up to 20 s.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	stopped := context.AfterFunc(ctx, func() {
		g.stopping.Store(true)
		_ = l.Close() // which ends accept
	})
	defer stopped()
	g.log.Info("http listening", "addr", l.Addr().String())
	if err := g.accept(ctx, l); err != nil {
		return errors.Join(fmt.Errorf("serve http: %w", err), l.Close())
	}
	g.stopping.Store(true) // ctx may have ended a moment before
	g.conns.each((*conn).closeIdle)
	done := make(chan struct{})
	go func() { defer close(done); g.conns.all.Wait() }()
	limit := time.NewTimer(drainTimeout)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		g.log.Warn("requests were cut at shutdown", "after", drainTimeout.String())
		g.hurry.Store(true)
		g.conns.each(func(c *conn) { _ = c.Close() })
		<-done
	}
	return nil
}

// accept serves connections until ctx ends.
func (g *Gateway) accept(ctx context.Context, l net.Listener) error {
	for {
		select {
		case g.conns.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			<-g.conns.slots
			g.log.Warn("accept", "error", err.Error())
			pause := time.NewTimer(acceptRetry)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
			continue
		}
		g.conns.all.Go(func() {
			defer func() { <-g.conns.slots }()
			g.serveConn(c)
		})
	}
}
