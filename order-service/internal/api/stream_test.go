package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

// sse is one open stream.
type sse struct {
	t     *testing.T
	lines *bufio.Scanner
}

type sseEvent struct{ id, event, data string }

func (w *world) stream(base, token, path, lastID string) *sse {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	w.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", base+path, nil)
	require.NoError(w.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = resp.Body.Close() })
	require.Equal(w.t, 200, resp.StatusCode)
	require.Equal(w.t, "text/event-stream", resp.Header.Get("Content-Type"))
	return &sse{t: w.t, lines: bufio.NewScanner(resp.Body)}
}

// next gives the next event; comments are skipped.
func (s *sse) next() sseEvent {
	s.t.Helper()
	var e sseEvent
	for s.lines.Scan() {
		name, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.event = value
		case "data":
			e.data = value
		case "":
			if e.event != "" {
				return e
			}
		}
	}
	require.Fail(s.t, "the stream ended", s.lines.Err())
	return e
}

// entry gives the next timeline entry's id and kind.
func (s *sse) entry() string {
	s.t.Helper()
	e := s.next()
	require.Equal(s.t, "timeline", e.event)
	var v struct {
		Seq  json.Number
		Kind string
	}
	require.NoError(s.t, json.Unmarshal([]byte(e.data), &v))
	require.Equal(s.t, v.Seq.String(), e.id)
	return e.id + " " + v.Kind
}

func TestStreamFollowsAnOrderAcrossReplicas(t *testing.T) {
	t.Parallel()
	w := setup(t)
	other, _, _, _ := w.replica()
	id := w.place(asha)
	path := "/orders/" + id + "/events"
	here := w.stream(w.http, w.token(asha), path, "")
	there := w.stream(other, w.token(root), path, "") // an Admin, on a replica that writes nothing
	for _, s := range []*sse{here, there} {
		e := s.next()
		require.Equal(t, "order", e.event)
		require.Empty(t, e.id, "an id would make a client that loses the connection now skip entries")
		require.JSONEq(t, orderJSON(id, "pending", ""), e.data)
		require.Equal(t, "1 order.created", s.entry())
	}
	w.pay(id)
	for _, s := range []*sse{here, there} {
		require.Equal(t, "2 payment.completed", s.entry())
		require.Equal(t, "3 order.status_changed", s.entry())
	}
	require.Equal(t, 200, w.call(asha, "POST", "/orders/"+id+"/cancel", "").status)
	for _, s := range []*sse{here, there} {
		require.Equal(t, "4 order.cancelled", s.entry())
	}

	resumed := w.stream(other, w.token(asha), path, "2")
	e := resumed.next()
	require.Equal(t, "order", e.event)
	require.JSONEq(t, orderJSON(id, "cancelled", `"cancel_reason":"customer",`), e.data)
	require.Equal(t, "3 order.status_changed", resumed.entry())
	require.Equal(t, "4 order.cancelled", resumed.entry())

	// The saga has ended; the refund that comes later still arrives.
	w.refund(id)
	for _, s := range []*sse{here, there, resumed} {
		require.Equal(t, "5 payment.refunded", s.entry())
	}
}

func TestStreamRefusesABadResumePoint(t *testing.T) {
	t.Parallel()
	w := setup(t)
	id := w.place(asha)
	path := "/orders/" + id + "/events"
	for _, last := range []string{"x", "-1", "1.5", "99999999999999999999"} {
		problem(t, w.call(asha, "GET", path, "", "Last-Event-ID", last), 400, "malformed", "Malformed request",
			"Last-Event-ID must be the id of an event of this stream", path)
	}
	s := w.stream(w.http, w.token(asha), path, "9223372036854775807")
	require.Equal(t, "order", s.next().event, "beyond the end is no error: nothing is sent twice")
}

func TestStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	w := setup(t)
	id := w.place(asha)
	c := w.issuer.Claims(asha, authn.Customer)
	c.Expires = time.Now().Add(2 * time.Second).Unix()
	s := w.stream(w.http, w.issuer.Mint(c), "/orders/"+id+"/events", "")
	require.Equal(t, "order", s.next().event)
	require.Equal(t, "1 order.created", s.entry())
	for s.lines.Scan() {
		require.NotContains(t, s.lines.Text(), "event:")
	}
	require.NoError(t, s.lines.Err(), "closed properly")
}
