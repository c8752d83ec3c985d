// Package http1 reads HTTP/1.1 messages (RFC 9112) strictly: whatever two
// readers could take for different messages is an error and never repaired. It
// only reads what has come; to wait for more, and for how long, is up to the
// owner of the connection.
package http1

import (
	"bytes"
	"errors"
	"io"
)

const (
	// MaxHead is the largest head in bytes.
	MaxHead = 64 << 10
	// MaxFields is how many fields a head may have.
	MaxFields = 200
)

// ErrMore says that the rest has not come yet: Fill, and ask again.
var ErrMore = errors.New("http1: more bytes have to come")

// ErrHeadTooLarge says that a head is over MaxHead or MaxFields.
var ErrHeadTooLarge = errors.New("http1: the head is too large")

// SyntaxError says what is wrong with a message.
type SyntaxError string

func (e SyntaxError) Error() string { return "http1: " + string(e) }

// Reader keeps what has come from a connection and was not read yet.
type Reader struct {
	buf  []byte
	r, w int // buf[r:w] was not read yet
	seen int // how much of it are lines of a head that Head has read
	none int // how much of it holds no end of a line but theirs
}

// maxBuffer holds the largest head and a bit.
const maxBuffer = MaxHead + 4<<10

// NewReader returns a reader that keeps its bytes in buf while they fit.
func NewReader(buf []byte) Reader { return Reader{buf: buf} }

// Buffered returns how many bytes have come and were not read.
func (r *Reader) Buffered() int { return r.w - r.r }

// Size returns how large the buffer has become.
func (r *Reader) Size() int { return len(r.buf) }

// Take ends the use of the reader and returns its buffer.
func (r *Reader) Take() []byte {
	b := r.buf
	*r = Reader{}
	return b
}

// Fill reads from src once. It may overwrite what was read before.
func (r *Reader) Fill(src io.Reader) error {
	r.room()
	n, err := src.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// room makes room for at least one byte.
func (r *Reader) room() {
	switch {
	case r.r == r.w:
		r.r, r.w = 0, 0
	case r.w < len(r.buf):
	case r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	default: // a head, the only thing that must be whole before it is read
		larger := make([]byte, max(min(2*len(r.buf), maxBuffer), len(r.buf)+1))
		copy(larger, r.buf)
		r.buf = larger
	}
}

// Poll reads what has come without waiting, as far as there is room. An error
// says that the other side has closed.
func (r *Reader) Poll(src *Poll) error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	n, err := src.into(r.buf[r.w:])
	r.w += n
	return err
}

// SkipEmptyLines skips empty lines, which may stand before a request.
func (r *Reader) SkipEmptyLines() {
	for r.seen == 0 && bytes.HasPrefix(r.buf[r.r:r.w], []byte("\r\n")) {
		r.r += 2
		r.none = 0
	}
}

// Head reads a head and returns it without the empty line at its end, the names
// of its fields in lower case.
func (r *Reader) Head() (string, error) {
	b := r.buf[r.r:r.w]
	for {
		from := max(r.seen, r.none)
		at := bytes.IndexByte(b[from:], '\n')
		if at < 0 {
			if len(b) > MaxHead {
				return "", ErrHeadTooLarge
			}
			r.none = len(b) // not to be searched again for each byte that comes
			return "", ErrMore
		}
		line := b[r.seen : from+at+1]
		if len(line) < 2 || line[len(line)-2] != '\r' {
			return "", SyntaxError("a line of the head ends without CR")
		}
		if len(line) == 2 {
			head := string(b[:r.seen])
			r.r += r.seen + 2
			r.seen, r.none = 0, 0
			if len(head)+2 > MaxHead {
				return "", ErrHeadTooLarge
			}
			return head, nil
		}
		if r.seen > 0 {
			lowerName(line)
		}
		r.seen += len(line)
	}
}

// line reads a line of at most limit bytes and returns it without its end.
func (r *Reader) line(limit int) ([]byte, error) {
	b := r.buf[r.r:r.w]
	at := bytes.IndexByte(b, '\n')
	switch {
	case at < 0 && len(b) <= limit+1:
		return nil, ErrMore
	case at < 0 || at > limit+1:
		return nil, SyntaxError("a line of a chunked body is too long")
	case at == 0 || b[at-1] != '\r':
		return nil, SyntaxError("a line of a chunked body ends without CR")
	}
	r.r += at + 1
	return b[:at-1], nil
}

// next reads up to n bytes of what has come.
func (r *Reader) next(n int64) []byte {
	b := r.buf[r.r:r.w]
	if int64(len(b)) > n {
		b = b[:n]
	}
	r.r += len(b)
	return b
}

// lowerName puts the name of a field into lower case.
func lowerName(line []byte) {
	for i, c := range line {
		if c == ':' {
			return
		}
		if 'A' <= c && c <= 'Z' {
			line[i] = c | 0x20
		}
	}
}

// Quiet tells whether the connection is open and nothing has come from it.
// Otherwise it is of no further use, for what has come may be lost.
func (p *Poll) Quiet() bool {
	n, err := p.into(p.one[:])
	return n == 0 && err == nil
}
