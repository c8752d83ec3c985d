package edge

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

const (
	readBuffer = 4 << 10
	bufferSize = 16 << 10
	// maxDrain is how much of a body that nobody wanted is read so that the
	// connection can be used again.
	maxDrain    = 256 << 10
	lingerTime  = time.Second
	lingerBytes = 8 << 20
)

// past is a deadline that makes what waits return at once.
var past = time.Unix(1, 0)

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, bufferSize); return &b }}

// conn is the connection of a client. One goroutine reads its requests and
// answers them, one after the other.
type conn struct {
	net.Conn
	g       *Gateway
	peer    netip.Addr
	in      http1.Reader
	look    *http1.Poll
	idle    atomic.Bool // between two requests; who swaps it to false decides
	readBy  time.Time   // the deadlines that are set
	writeBy time.Time
	x       exchange
}

func (g *Gateway) serveConn(raw net.Conn) {
	c := &conn{Conn: raw, g: g, peer: netip.IPv4Unspecified(), look: http1.NewPoll(raw), in: http1.NewReader(make([]byte, readBuffer))}
	if addr, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		c.peer = addr.AddrPort().Addr().Unmap().WithZone("")
	}
	c.x.init(c)
	g.conns.add(c)
	defer func() {
		g.conns.remove(c)
		_ = c.Close()
	}()
	for first := true; ; first = false {
		head, err := c.next(first)
		if err != nil && !unreadable(err) {
			return // it ended or came too slowly
		}
		if !c.x.serve(head, err) {
			return
		}
	}
}

// unreadable tells whether err says that what has come is no request.
func unreadable(err error) bool {
	_, syntax := errors.AsType[http1.SyntaxError](err)
	return syntax || errors.Is(err, http1.ErrHeadTooLarge)
}

// errStopping says that the gateway stops.
var errStopping = errors.New("the gateway is stopping")

// next waits for a request and reads its head.
func (c *conn) next(first bool) (string, error) {
	if c.in.Buffered() == 0 {
		wait := idleTimeout
		if first {
			wait = c.g.times.head // who connects wants something
		}
		if err := c.await(wait); err != nil {
			return "", err
		}
	}
	c.x.start = time.Now()
	for timed := false; ; {
		c.in.SkipEmptyLines()
		head, err := c.in.Head()
		if !errors.Is(err, http1.ErrMore) {
			return head, err
		}
		if !timed {
			if err := c.readUntil(c.x.start.Add(c.g.times.head)); err != nil {
				return "", err
			}
			timed = true
		}
		if err := c.in.Fill(c.Conn); err != nil {
			return "", err
		}
	}
}

// await waits for the first byte of a request. A shutdown ends it.
func (c *conn) await(limit time.Duration) error {
	if now := time.Now(); c.readBy.Before(now.Add(limit / 2)) {
		if err := c.readUntil(now.Add(limit)); err != nil {
			return err
		}
	}
	if c.in.Size() > readBuffer { // one large request is no reason to keep so much
		c.in = http1.NewReader(make([]byte, readBuffer))
		c.x = exchange{}
		c.x.init(c)
	}
	c.idle.Store(true)
	if c.g.stopping.Load() {
		return errStopping
	}
	err := c.in.Fill(c.Conn)
	if !c.idle.CompareAndSwap(true, false) {
		return errStopping
	}
	return err
}

// closeIdle ends the wait for another request, if that is what c does.
func (c *conn) closeIdle() {
	if c.idle.CompareAndSwap(true, false) {
		_ = c.SetReadDeadline(past) // an error means that it is closed
	}
}

// readUntil sets the deadline for reading.
func (c *conn) readUntil(t time.Time) error {
	c.readBy = t
	return c.SetReadDeadline(t)
}

// mayWrite sets the deadline for writing when the last one is too near: once in
// a while, and so a client gets up to twice the time.
func (c *conn) mayWrite() error {
	now, limit := time.Now(), c.g.times.write
	if c.writeBy.After(now.Add(limit)) {
		return nil
	}
	c.writeBy = now.Add(2 * limit)
	return c.SetWriteDeadline(c.writeBy)
}

func (c *conn) write(b []byte) error {
	if err := c.mayWrite(); err != nil {
		return err
	}
	_, err := c.Write(b)
	return err
}

// linger ends this side and takes what comes for a moment longer: bytes that
// arrive at a closed connection are answered with a reset, and that can destroy
// the answer before the client has read it.
func (c *conn) linger() {
	t, ok := c.Conn.(*net.TCPConn)
	if !ok || c.g.hurry.Load() {
		return
	}
	if errors.Join(t.CloseWrite(), t.SetReadDeadline(time.Now().Add(lingerTime))) == nil {
		_, _ = io.CopyN(io.Discard, t, lingerBytes) // what matters is the time
	}
}

// abort makes the close a reset: a half answer must not look whole.
func (c *conn) abort() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // an error means that it is closed
	}
}
