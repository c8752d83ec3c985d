//go:build unix

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

// link is a way between a service and a server that can be broken.
type link struct {
	mu      sync.Mutex
	mode    fault         // "" while it is whole
	changed chan struct{} // closed when mode changes
	conns   map[net.Conn]struct{}
}

func newLink() *link { return &link{changed: make(chan struct{}), conns: map[net.Conn]struct{}{}} }

// set breaks the link, or mends it with "".
func (l *link) set(mode fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// After answers were lost a connection makes no sense to its client any more.
	if mode == refuse || l.mode == lose {
		for c := range l.conns {
			_ = c.Close()
		}
	}
	l.mode = mode
	close(l.changed)
	l.changed = make(chan struct{})
}

// add notes a connection that ends with the link; false when it is cut.
func (l *link) add(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return l.mode != refuse
}

func (l *link) remove(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}

// passes waits while the link stalls and reports whether bytes get through.
func (l *link) passes(ctx context.Context, answer bool) bool {
	for {
		l.mu.Lock()
		mode, changed := l.mode, l.changed
		l.mu.Unlock()
		switch {
		case mode == "" || mode == lose && !answer:
			return true
		case mode == refuse || mode == lose:
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// proxy stands between clients and one server. It is closed by ending its
// context, and then waited for.
type proxy struct {
	server string // host:port
	// choose says which link a new connection belongs to; it may read the
	// client's first bytes, and returns what it has read.
	choose func(client net.Conn) (*link, []byte, error)
	port   int
	wg     sync.WaitGroup
}

// open starts the proxy on a free port of 127.0.0.1.
func (p *proxy) open(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for %s: %w", p.server, err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return errors.New("not a TCP listener")
	}
	p.port = addr.Port
	context.AfterFunc(ctx, func() { _ = l.Close() })
	p.wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(ctx, client) })
		}
	})
	return nil
}

func (p *proxy) serve(ctx context.Context, client net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = client.Close() })
	way, first, err := p.choose(client)
	if err != nil {
		return
	}
	var d net.Dialer
	server, err := d.DialContext(ctx, "tcp", p.server)
	if err != nil {
		return
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	defer way.remove(client, server)
	if !way.add(client, server) {
		return
	}
	p.wg.Go(func() {
		defer cancel()
		if !way.passes(ctx, false) {
			return
		}
		if _, err := server.Write(first); err != nil {
			return
		}
		carry(ctx, way, server, client, false)
	})
	carry(ctx, way, client, server, true)
}

// carry copies one direction until either side ends. Answers that get lost are
// read and forgotten.
func carry(ctx context.Context, way *link, to io.Writer, from io.Reader, answer bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && way.passes(ctx, answer) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// byClientID chooses the link by the client id in the first Kafka request. All
// clients know the broker by one address only, which it tells them itself.
func byClientID(links map[string]*link, others *link) func(net.Conn) (*link, []byte, error) {
	return func(client net.Conn) (*link, []byte, error) {
		head := make([]byte, 14) // size, api key, version, correlation id, length of the client id
		if _, err := io.ReadFull(client, head); err != nil {
			return nil, nil, fmt.Errorf("read the first request: %w", err)
		}
		length := int16(binary.BigEndian.Uint16(head[12:]))
		if length <= 0 {
			return others, head, nil
		}
		id := make([]byte, length)
		if _, err := io.ReadFull(client, id); err != nil {
			return nil, nil, fmt.Errorf("read the client id: %w", err)
		}
		way := links[string(id)]
		if way == nil {
			way = others
		}
		return way, slices.Concat(head, id), nil
	}
}
