//go:build unix

package http1

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// poll reads from a connection without waiting: 0 and no error when nothing has
// come, io.EOF when the other side has closed.
func poll(c net.Conn, p []byte) (n int, err error) {
	s, ok := c.(syscall.Conn)
	if !ok || len(p) == 0 {
		return 0, nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var readErr error
	err = raw.Control(func(fd uintptr) { // not Read, which minds the deadline
		for {
			if n, readErr = syscall.Read(int(fd), p); !errors.Is(readErr, syscall.EINTR) {
				return
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(readErr, syscall.EAGAIN):
		return 0, nil
	case readErr != nil:
		return 0, readErr
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
