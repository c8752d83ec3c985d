package upstream

import (
	"errors"
	"io"
	"strconv"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

// upload sends a request's body while its answer is waited for. A nil upload
// has succeeded.
type upload struct {
	done chan struct{}
	err  error // once done is closed
}

func (c *conn) startUpload() {
	u := &upload{done: make(chan struct{})}
	c.upload, c.req.uploading = u, true
	go func() { // until the body's end, or endUpload
		defer close(u.done)
		u.err = c.sendBody()
	}()
}

func (c *conn) sendBody() error {
	var framed []byte
	for {
		piece, err := c.req.Upload.Next()
		switch {
		case errors.Is(err, io.EOF) && c.req.Length == http1.Chunked:
			_, err = io.WriteString(c, "0\r\n\r\n")
			return err
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &callerError{err}
		case c.req.Length == http1.Chunked:
			framed = AppendChunk(framed[:0], piece)
			piece = framed
		}
		if _, err := c.Write(piece); err != nil {
			return err
		}
	}
}

// AppendChunk appends a piece of a chunked body.
func AppendChunk(b, piece []byte) []byte {
	b = strconv.AppendUint(b, uint64(len(piece)), 16)
	b = append(b, "\r\n"...)
	b = append(b, piece...)
	return append(b, "\r\n"...)
}

// over tells whether nobody uses the body now.
func (u *upload) over() bool {
	if u == nil {
		return true
	}
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// failed returns why the client's part of an upload failed. That the service
// takes no more is no failure yet: its answer may be on the way.
func (u *upload) failed() error {
	if u != nil && u.over() {
		if e, ok := u.err.(*callerError); ok { //nolint:errorlint // sendBody returns it as it is
			return e
		}
	}
	return nil
}

func (u *upload) succeeded() bool { return u == nil || u.over() && u.err == nil }

// endUpload stops an upload that still runs, because an answer has come or none
// will. When none will because the client's part failed, it returns that.
func (c *conn) endUpload(err error) error {
	u := c.upload
	switch {
	case u == nil:
		return err
	case !u.over():
		c.req.Upload.Stop()
		c.writeBy = past
		_ = c.SetWriteDeadline(past) // an error shows at the next use
		<-u.done
	case err != nil && u.failed() != nil:
		err = u.failed()
	}
	return err
}
