package http1

import (
	"errors"
	"io"
	"strconv"
	"strings"
)

const (
	maxChunkLine = 256      // a chunk's size with its extensions
	maxTrailer   = 16 << 10 // all of it
)

// Body follows a message's body through the bytes of a Reader.
type Body struct {
	state   bodyState
	left    int64 // bytes of the body or of the present chunk
	trailer int   // bytes of it so far
	err     error // an error stays
	// Trailers are the fields after a chunked body.
	Trailers []Field
}

type bodyState int

const (
	bodyDone bodyState = iota
	bodyLength
	bodyUntilClose
	chunkSize
	chunkData
	chunkEnd
	chunkTrailer
)

// Start begins a body of a length as Request and Response have it.
func (b *Body) Start(length int64) {
	*b = Body{Trailers: b.Trailers[:0]}
	switch {
	case length == Chunked:
		b.state = chunkSize
	case length == UntilClose:
		b.state = bodyUntilClose
	case length > 0:
		b.state, b.left = bodyLength, length
	}
}

// Done tells whether all of the body was read.
func (b *Body) Done() bool { return b.state == bodyDone }

// UntilClose tells whether the end of the connection is the end of the body.
func (b *Body) UntilClose() bool { return b.state == bodyUntilClose }

// Next returns the next piece of the body that has come, without its framing.
// The piece is good until r is filled. The error is ErrMore when nothing has
// come, io.EOF after the end, or a SyntaxError.
func (b *Body) Next(r *Reader) ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	piece, err := b.next(r)
	if err != nil && !errors.Is(err, ErrMore) && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return piece, err
}

func (b *Body) next(r *Reader) ([]byte, error) {
	for {
		switch b.state {
		case bodyDone:
			return nil, io.EOF
		case bodyLength, chunkData:
			p := r.next(b.left)
			if len(p) == 0 {
				return nil, ErrMore
			}
			b.left -= int64(len(p))
			switch {
			case b.left > 0:
			case b.state == bodyLength:
				b.state = bodyDone
			default:
				b.state = chunkEnd
			}
			return p, nil
		case bodyUntilClose:
			p := r.next(1 << 62)
			if len(p) == 0 {
				return nil, ErrMore
			}
			return p, nil
		case chunkSize:
			line, err := r.line(maxChunkLine)
			if err != nil {
				return nil, err
			}
			if b.left, err = parseChunkSize(string(line)); err != nil {
				return nil, err
			}
			if b.state = chunkData; b.left == 0 {
				b.state = chunkTrailer
			}
		case chunkEnd:
			if _, err := r.line(0); err != nil { // or the chunk is longer than its size
				return nil, err
			}
			b.state = chunkSize
		case chunkTrailer:
			if err := b.trailerLine(r); err != nil {
				return nil, err
			}
		}
	}
}

func (b *Body) trailerLine(r *Reader) error {
	line, err := r.line(maxTrailer)
	if err != nil {
		return err
	}
	if len(line) == 0 {
		b.state = bodyDone
		return nil
	}
	if b.trailer += len(line); b.trailer > maxTrailer {
		return SyntaxError("the trailer is too long")
	}
	lowerName(line)
	field, err := parseField(string(line))
	if err != nil {
		return err
	}
	b.Trailers = append(b.Trailers, field)
	return nil
}

// parseChunkSize reads a chunk's size; extensions mean nothing to anybody.
func parseChunkSize(line string) (int64, error) {
	digits, _, extended := strings.Cut(line, ";")
	if extended {
		digits = strings.TrimRight(digits, " \t")
	}
	size, err := strconv.ParseUint(digits, 16, 60)
	if err != nil || len(digits) > 15 || !validValue(line) {
		return 0, SyntaxError("bad chunk size")
	}
	return int64(size), nil
}
