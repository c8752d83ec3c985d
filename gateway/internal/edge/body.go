package edge

import (
	"errors"
	"io"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// requestBody is the body of the present request. It is an upstream.Upload.
type requestBody struct {
	http1.Body
	c       *conn
	first   []byte // what was read ahead
	n       int64
	expect  bool // the client waits for a 100
	timed   bool
	problem *errs.Error // why it cannot be read on
}

func (b *requestBody) start(q *http1.Request) {
	*b = requestBody{Body: b.Body, c: b.c, expect: q.Expect}
	b.Start(q.Length)
}

// Next returns the next piece, and waits for it; io.EOF after the last.
func (b *requestBody) Next() ([]byte, error) {
	if p := b.first; len(p) > 0 {
		b.first = nil
		return p, nil
	}
	for {
		piece, err := b.Body.Next(&b.c.in)
		switch {
		case errors.Is(err, io.EOF):
			return nil, io.EOF
		case errors.Is(err, http1.ErrMore):
			if err = b.more(); err == nil {
				continue
			}
			fallthrough
		case err != nil:
			b.problem = &errs.Error{Kind: errs.Malformed, Detail: "the body ended early, came too slowly or is badly framed", Err: err}
			return nil, b.problem
		}
		if b.n += int64(len(piece)); b.n > httpx.MaxBody {
			b.problem = tooLarge()
			return nil, b.problem
		}
		return piece, nil
	}
}

// more waits for bytes, asking for them if the client waits for that.
func (b *requestBody) more() error {
	if err := b.limit(); err != nil {
		return err
	}
	if b.expect {
		b.expect = false
		if _, err := io.WriteString(b.c.Conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return err
		}
	}
	return b.c.in.Fill(b.c.Conn)
}

// limit sets the time limits of the body, once.
func (b *requestBody) limit() error {
	if b.timed {
		return nil
	}
	b.timed = true
	if err := b.c.mayWrite(); err != nil { // for the 100
		return err
	}
	return b.c.readUntil(b.c.x.start.Add(b.c.g.times.request))
}

// Stop makes a Next that waits return.
func (b *requestBody) Stop() { _ = b.c.readUntil(past) }

// gather reads a small body in full, and of others what has come, so that a
// service is asked when there is something to do. It tells whether that was all.
func (b *requestBody) gather(length int64) (all bool, err error) {
	if length > bufferSize {
		return false, nil
	}
	if length == http1.Chunked {
		for {
			piece, err := b.Body.Next(&b.c.in)
			b.first = append(b.first, piece...)
			b.n += int64(len(piece))
			if err != nil || len(b.first) > bufferSize {
				return errors.Is(err, io.EOF), nil // another error shows again
			}
		}
	}
	var body []byte
	for int64(len(body)) < length {
		piece, err := b.Next()
		if err != nil {
			return false, err
		}
		body = append(body, piece...)
	}
	b.first = body
	return true, nil
}

// drain reads the rest of a body that nobody wanted. It tells whether the next
// request can be read.
func (b *requestBody) drain() bool {
	b.first = nil
	for n := 0; n <= maxDrain; {
		piece, err := b.Next()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		n += len(piece)
	}
	return false
}
