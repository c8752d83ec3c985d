package httpx

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

const (
	ssePoll      = time.Second      // the net under lost wake-ups
	sseComment   = 15 * time.Second // keeps proxies from closing a quiet stream
	sseWriteTime = 10 * time.Second // a client that does not read is let go
)

// Stream writes server-sent events (WHATWG HTML, §9.2) to one client.
type Stream struct {
	w    http.ResponseWriter
	ctrl *http.ResponseController
}

// Send writes one event. id is its sequence number, 0 for none.
func (s *Stream) Send(id int64, event string, data any) error {
	body, err := encode(data)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	b := make([]byte, 0, len(body)+64)
	if id > 0 {
		b = append(strconv.AppendInt(append(b, "id: "...), id, 10), '\n')
	}
	b = append(append(append(b, "event: "...), event...), "\ndata: "...)
	return s.write(append(append(b, body...), '\n'))
}

func (s *Stream) write(b []byte) error {
	if err := s.ctrl.SetWriteDeadline(time.Now().Add(sseWriteTime)); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	if err := s.ctrl.Flush(); err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return nil
}

// LastEventID returns where a client that reconnects left off, 0 for a new one.
func LastEventID(r *http.Request) (int64, error) {
	v := r.Header.Get("Last-Event-ID")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, errs.New(errs.Malformed, "Last-Event-ID must be the id of an event of this stream")
	}
	return n, nil
}

// Follow answers with a stream that lives until the client leaves or the
// server stops. next sends all that is new; it runs at once, at every wake and
// every second. Errors after the stream began end it: the client reconnects
// and resumes.
func Follow(w http.ResponseWriter, r *http.Request, wake <-chan struct{}, next func(ctx context.Context, s *Stream) error) error {
	s := &Stream{w: w, ctrl: http.NewResponseController(w)}
	if err := s.ctrl.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("start stream: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if err := s.write([]byte(": stream\n\n")); err != nil {
		return nil // the client left; there is nobody to tell
	}
	ctx := r.Context()
	stopping, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	poll, comment := time.NewTicker(ssePoll), time.NewTicker(sseComment)
	defer poll.Stop()
	defer comment.Stop()
	for {
		if err := next(ctx, s); err != nil {
			noteStreamEnd(ctx, err)
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-stopping:
			return nil
		case <-wake:
		case <-poll.C:
		case <-comment.C:
			if err := s.write([]byte(": alive\n\n")); err != nil {
				return nil // the client left
			}
		}
	}
}

func noteStreamEnd(ctx context.Context, err error) {
	if ctx.Err() == nil {
		Note(ctx, slog.String("stream_end", err.Error()))
	}
}
