package edge

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// conn watches the bytes of a client's connection beside net/http.
//
// Inbound it follows the framing of requests, strictly. net/http accepts some
// heads that other servers read differently (Content-Length together with
// Transfer-Encoding, Transfer-Encoding in HTTP/1.0, bare line feeds, folded
// lines) and hides from handlers that it did. conn notes the first such
// request; its handler refuses it and closes the connection, so whatever
// follows is never taken for a request (RFC 9112 §6.1, §11.2). Where conn and
// net/http might disagree conn gives up, which refuses: they cannot drift apart.
//
// Outbound it gives every write a time limit, and replaces the plain-text
// answers that net/http gives without asking a handler.
type conn struct {
	net.Conn
	scan   scanner
	heads  atomic.Int64 // requests whose head has begun, as the scanner counts
	badAt  atomic.Int64 // number of the first refused request, 0 for none
	inBody atomic.Bool  // the body of the present request has not come in full
	served int64        // requests that reached the handler; used by one goroutine
	answer func(c *conn, status int) []byte

	lingered atomic.Bool
	hurry    *atomic.Bool // the gateway's: closes are to be immediate
}

const (
	lingerTime  = time.Second
	lingerBytes = 8 << 20
)

// writeTimeout is how long a client may take to accept a piece of an answer.
const writeTimeout = 30 * time.Second

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.badAt.Load() == 0 {
		at := c.scan.feed(p[:n])
		c.heads.Store(c.scan.heads)
		c.inBody.Store(c.scan.state != inHead)
		if at != 0 {
			c.badAt.Store(at)
		}
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	if status := nativeAnswer(p); status != 0 {
		if _, err := c.Conn.Write(c.answer(c, status)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// CloseWrite is called when net/http closes although the client may still be
// sending.
func (c *conn) CloseWrite() error { return c.linger() }

// Close closes. net/http does not wait for the rest of a body when the client
// said that it closes as well, so that is done here.
func (c *conn) Close() error {
	if c.inBody.Load() {
		_ = c.linger() // what matters is the close
	}
	return c.Conn.Close()
}

// linger ends this side and takes what comes for a moment longer: bytes that
// arrive at a closed connection are answered with a reset, and that can destroy
// the answer before the client has read it.
func (c *conn) linger() error {
	t, ok := c.Conn.(*net.TCPConn)
	if !ok || c.lingered.Swap(true) || c.hurry.Load() {
		return nil
	}
	if err := errors.Join(t.CloseWrite(), t.SetReadDeadline(time.Now().Add(lingerTime))); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, t, lingerBytes)
	return err
}

// refused counts a request that reached the handler and tells whether its
// framing is to be refused: it is the first unacceptable one or later, or none
// that the scanner saw.
func (c *conn) refused() bool {
	c.served++
	bad := c.badAt.Load()
	return bad != 0 && c.served >= bad || bad == 0 && c.served > c.heads.Load()
}

// nativeAnswer recognises an answer that net/http gave by itself, in one write
// and before any handler ran; 0 for every other write.
func nativeAnswer(p []byte) int {
	const prefix = "HTTP/1.1 "
	if len(p) < 16 || len(p) > 1024 || string(p[:len(prefix)]) != prefix || p[len(prefix)] < '4' {
		return 0
	}
	_, head, _ := bytes.Cut(p, []byte("\r\n"))
	status, err := strconv.Atoi(string(p[len(prefix) : len(prefix)+3]))
	if err != nil {
		return 0
	}
	if bytes.HasPrefix(head, []byte("Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")) ||
		(status == 417 && !bytes.Contains(head, []byte("X-Request-Id:"))) {
		return status
	}
	return 0
}

// scanner follows the framing of the requests on a connection.
type scanner struct {
	state   scanState
	line    []byte // a line whose end has not come yet
	left    int64  // bytes of body or chunk to skip
	heads   int64  // complete heads
	first   bool   // the request line of the present head was read
	old     bool   // HTTP/1.0
	length  int64  // Content-Length, -1 for none
	chunked bool
}

type scanState int

const (
	inHead scanState = iota
	inBody
	inChunkSize
	inChunk
	afterChunk
	inTrailer
)

// maxLine bounds a line that is kept between two reads. net/http answers 431
// before it; and a chunk's size never needs it.
const maxLine = 64 << 10

// feed reads the next bytes. It returns the number of the first request that
// must be refused, 0 while there is none; after that it is not fed again.
func (s *scanner) feed(p []byte) (refuse int64) {
	for len(p) > 0 {
		if s.state == inBody || s.state == inChunk {
			n := min(int64(len(p)), s.left)
			p, s.left = p[n:], s.left-n
			switch {
			case s.left > 0:
			case s.state == inBody:
				s.begin()
			default:
				s.state = afterChunk
			}
			continue
		}
		at := bytes.IndexByte(p, '\n')
		if at < 0 {
			if len(s.line)+len(p) > maxLine {
				return s.bad()
			}
			s.line = append(s.line, p...)
			return 0
		}
		line := p[:at+1]
		p = p[at+1:]
		if len(s.line) > 0 {
			s.line = append(s.line, line...)
			line = s.line
		}
		ok := s.step(line)
		s.line = s.line[:0]
		if !ok {
			return s.bad()
		}
	}
	return 0
}

// bad is the request that an unacceptable line belongs to: the present one
// while its head is read, the next one while its body is, because the present
// one may be under way already; its body ends in an error then.
func (s *scanner) bad() int64 {
	if s.state == inHead && s.first {
		return s.heads
	}
	return s.heads + 1
}

// begin expects a new head.
func (s *scanner) begin() { s.state, s.first = inHead, false }

// step reads one line with its end; false refuses.
func (s *scanner) step(line []byte) bool {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || bytes.IndexByte(text, '\r') >= 0 {
		return false
	}
	switch s.state {
	case inHead:
		return s.headLine(text)
	case inChunkSize:
		return s.chunkSize(text)
	case afterChunk:
		s.state = inChunkSize
		return len(text) == 0
	default: // inTrailer
		if len(text) == 0 {
			s.begin()
		}
		return true
	}
}

func (s *scanner) headLine(text []byte) bool {
	switch {
	case !s.first && len(text) == 0:
		return true // an empty line before a request, which net/http may skip
	case !s.first:
		s.first, s.old, s.length, s.chunked = true, bytes.HasSuffix(text, []byte(" HTTP/1.0")), -1, false
		s.heads++ // counted from its first line on
		return true
	case len(text) == 0:
		return s.endHead()
	case text[0] == ' ' || text[0] == '\t':
		return false // folded line
	}
	name, value, _ := bytes.Cut(text, []byte(":"))
	value = bytes.Trim(value, " \t")
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		if s.length >= 0 || len(value) == 0 || len(value) > 18 || strings.Trim(string(value), "0123456789") != "" {
			return false
		}
		s.length, _ = strconv.ParseInt(string(value), 10, 64) // cannot fail: up to 18 digits
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		if s.chunked || !bytes.EqualFold(value, []byte("chunked")) {
			return false
		}
		s.chunked = true
	}
	return true
}

func (s *scanner) endHead() bool {
	switch {
	case s.chunked && (s.length >= 0 || s.old):
		return false
	case s.chunked:
		s.state = inChunkSize
	case s.length > 0:
		s.state, s.left = inBody, s.length
	default:
		s.begin()
	}
	return true
}

func (s *scanner) chunkSize(text []byte) bool {
	digits, _, _ := bytes.Cut(text, []byte(";"))
	digits = bytes.TrimRight(digits, " \t")
	size, err := strconv.ParseUint(string(digits), 16, 60)
	if err != nil {
		return false
	}
	s.state, s.left = inChunk, int64(size)
	if size == 0 {
		s.state = inTrailer
	}
	return true
}
