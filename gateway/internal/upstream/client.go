package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

// Request is what a service is asked.
type Request struct {
	Method, Target string // the target is path and query
	Fields         []byte // lines with their ends; no Host, nothing about the body
	Length         int64  // of the body, or http1.Chunked
	Body           []byte // all of it, unless there is an Upload
	Upload         Upload // the body when it is still on its way

	// Deadline is for the whole answer, or for a Stream's head.
	Deadline time.Time
	Stream   bool
	// Interrupted is asked now and then while the service is waited for, not
	// while an Upload runs. An error ends the exchange.
	Interrupted func() error
	// Interim gets the interim answers (1xx).
	Interim func(*http1.Response) error

	uploading bool // Upload was asked for a piece
}

// Upload is a body that still comes from a client. It is used by one goroutine
// at a time, and by none any more when Do returns: an answer ends it.
type Upload interface {
	// Next returns the next piece of the body, io.EOF at its end.
	Next() ([]byte, error)
	// Stop makes a Next that waits return soon.
	Stop()
}

// ErrTimeout says that the service did not answer in time.
var ErrTimeout = errors.New("the service did not answer in time")

// callerError ends an exchange for a reason that is not the service's.
type callerError struct{ err error }

func (e *callerError) Error() string { return e.err.Error() }

func (e *callerError) Unwrap() error { return e.err }

const (
	dialTimeout = 2 * time.Second
	maxIdle     = 256         // connections per replica
	idleTimeout = time.Minute // services keep theirs for two
	bufferSize  = 16 << 10
	maxInterim  = 8
	// writeSlack saves a timer per request: a write may take that much longer.
	writeSlack = 5 * time.Second
	// Interrupted is asked after firstLook, then after twice as long, and so on.
	firstLook, lastLook = 50 * time.Millisecond, time.Second
)

// past is a deadline that makes what waits return at once.
var past = time.Unix(1, 0)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// conn is a connection to a replica. Between two exchanges it has no buffer.
type conn struct {
	net.Conn
	below   *http1.Poll // looks at what comes, below TLS
	in      http1.Reader
	buffer  *[]byte
	out     []byte
	answer  Response
	began   bool // bytes of an answer have come
	since   time.Time
	writeBy time.Time
	req     *Request
	upload  *upload
}

// Response is an answer whose body is still to be read. It must be closed.
type Response struct {
	http1.Response
	Replica string // its host and port
	Body    http1.Body

	pool    *Pool
	address *address
	conn    *conn
}

// Next returns the next piece of the body that has come: good until Wait. The
// error is http1.ErrMore when nothing has come and io.EOF after the end.
func (p *Response) Next() ([]byte, error) {
	piece, err := p.Body.Next(&p.conn.in)
	if err != nil && !errors.Is(err, http1.ErrMore) && !errors.Is(err, io.EOF) {
		p.cut()
	}
	return piece, err
}

// Wait waits until more of the body has come.
func (p *Response) Wait() error {
	err := p.conn.wait(!p.conn.req.Stream)
	if errors.Is(err, io.EOF) {
		if p.Body.UntilClose() {
			return io.EOF
		}
		err = io.ErrUnexpectedEOF
	}
	if _, caller := errors.AsType[*callerError](err); err != nil && !caller && !errors.Is(err, ErrTimeout) {
		p.cut()
	}
	return err
}

// cut counts an answer that broke off.
func (p *Response) cut() {
	p.address.breaker.failed(p.pool.now())
	p.pool.failures.WithLabelValues(p.pool.service, "cut").Inc()
}

// Close ends the exchange. The connection is kept when nothing of it is left.
func (p *Response) Close() {
	p.address.outstanding.Add(-1)
	c := p.conn
	if p.Body.Done() && !p.Response.Close && c.upload.succeeded() && c.in.Buffered() == 0 {
		p.address.keep(c)
		return
	}
	c.end()
}

// exchange sends the request to one replica, on a connection that was used
// before if there is one. When that proves stale, a request that may be sent
// again is sent again on a new one.
func (a *address) exchange(req *Request) (*Response, error) {
	if c := a.take(); c != nil {
		resp, err := c.exchange(a, req)
		if err == nil || c.began || !lost(err) || !req.replayable() {
			return resp, err
		}
		a.closeIdle(time.Time{}) // whatever ended this one has ended the others
	}
	c, err := a.dial(req)
	if err != nil {
		return nil, err
	}
	return c.exchange(a, req)
}

// replayable tells whether the request may be sent twice.
func (r *Request) replayable() bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.Length == 0
}

func (a *address) dial(req *Request) (*conn, error) {
	ctx, cancel := context.WithDeadline(context.Background(), req.Deadline)
	defer cancel()
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	tcp, err := d.DialContext(ctx, "tcp", a.hostPort)
	if err != nil {
		if !time.Now().Before(req.Deadline) {
			return nil, ErrTimeout
		}
		return nil, err
	}
	if a.url.Scheme != "https" {
		return &conn{Conn: tcp, below: http1.NewPoll(tcp)}, nil
	}
	c := tls.Client(tcp, &tls.Config{ServerName: a.url.Hostname(), MinVersion: tls.VersionTLS12})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return &conn{Conn: c, below: http1.NewPoll(tcp)}, nil
}

// exchange sends the request and reads the head of its answer. The connection
// is closed when it fails.
func (c *conn) exchange(a *address, req *Request) (*Response, error) {
	c.req, c.began, c.upload = req, false, nil
	c.buffer, _ = buffers.Get().(*[]byte)
	c.in = http1.NewReader(*c.buffer)
	err := c.send(a)
	if err == nil {
		err = c.receive()
	}
	err = c.endUpload(err)
	if err != nil {
		c.end()
		return nil, err
	}
	p := &c.answer
	p.Replica, p.address, p.conn = a.url.Host, a, c
	p.Body.Start(p.Length)
	return p, nil
}

func (c *conn) send(a *address) error {
	req := c.req
	b := c.out[:0]
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, a.path...)
	b = append(b, req.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, a.url.Host...)
	b = append(b, "\r\n"...)
	b = append(b, req.Fields...)
	switch {
	case req.Length == http1.Chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case req.Length > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, req.Length, 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	b = append(b, req.Body...)
	if c.out = b; cap(b) > bufferSize {
		c.out = nil // not to be kept for long
	}
	if c.writeBy.Before(req.Deadline) {
		c.writeBy = req.Deadline.Add(writeSlack)
		if err := c.SetWriteDeadline(c.writeBy); err != nil {
			return err
		}
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if req.Upload != nil {
		c.startUpload()
	}
	return nil
}

// receive reads the head of the answer.
func (c *conn) receive() error {
	for interim := 0; ; {
		head, err := c.in.Head()
		switch {
		case errors.Is(err, http1.ErrMore):
			if err := c.wait(true); err != nil {
				return err
			}
			c.began = true
			continue
		case err != nil:
			return err
		}
		p := &c.answer.Response
		if err := p.Parse(head); err != nil {
			return err
		}
		switch {
		case p.Status >= 200:
			return nil
		case p.Status == http.StatusSwitchingProtocols:
			return errors.New("the service switched protocols unasked")
		case interim == maxInterim:
			return errors.New("too many interim answers")
		case p.Status != http.StatusContinue: // which nobody asked it for
			if err := c.req.Interim(p); err != nil {
				return &callerError{err}
			}
		}
		interim++
	}
}

// wait waits until bytes have come, the deadline has passed if it counts, or
// the exchange is interrupted.
func (c *conn) wait(deadline bool) error {
	req := c.req
	for look := firstLook; ; look = min(2*look, lastLook) {
		until := time.Now().Add(look)
		last := deadline && !req.Deadline.After(until)
		if last {
			until = req.Deadline
		}
		if err := c.SetReadDeadline(until); err != nil {
			return err
		}
		err := c.in.Fill(c)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := c.upload.failed(); err != nil {
			return err
		}
		if last {
			return ErrTimeout
		}
		if c.upload.over() {
			if err := req.Interrupted(); err != nil {
				return &callerError{err}
			}
		}
	}
}

// release gives the buffer back.
func (c *conn) release() {
	if b := c.in.Take(); len(b) == bufferSize { // else it grew
		*c.buffer = b
		buffers.Put(c.buffer)
	}
	c.buffer = nil
}

// end closes the connection.
func (c *conn) end() {
	c.release()
	_ = c.Close()
}
