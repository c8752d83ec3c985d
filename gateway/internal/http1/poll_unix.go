//go:build unix

package http1

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// Poll looks at a connection without waiting. It is made once for a connection,
// so that a look costs a system call and no memory. One goroutine at a time may
// use it.
type Poll struct {
	raw  syscall.RawConn // nil when there is none
	read func(fd uintptr)
	to   []byte
	n    int
	err  error
	one  [1]byte
}

// NewPoll returns the Poll of a connection, which is TCP's.
func NewPoll(c net.Conn) *Poll {
	p := &Poll{}
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			p.raw = raw
		}
	}
	p.read = func(fd uintptr) {
		for {
			if p.n, p.err = syscall.Read(int(fd), p.to); !errors.Is(p.err, syscall.EINTR) {
				return
			}
		}
	}
	return p
}

// into reads what has come: 0 and no error when it is nothing, io.EOF when the
// other side has closed.
func (p *Poll) into(b []byte) (int, error) {
	if p.raw == nil || len(b) == 0 {
		return 0, nil
	}
	p.to = b
	err := p.raw.Control(p.read) // not its Read, which minds the deadline
	p.to = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(p.err, syscall.EAGAIN):
		return 0, nil
	case p.err != nil:
		return 0, p.err
	case p.n == 0:
		return 0, io.EOF
	}
	return p.n, nil
}
