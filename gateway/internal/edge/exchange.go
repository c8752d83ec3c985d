package edge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
	"github.com/tiffin-platform/tiffin/gateway/internal/limit"
	"github.com/tiffin-platform/tiffin/gateway/internal/upstream"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// exchange is a request and its answer. A connection uses one for all of its
// requests, one after the other.
type exchange struct {
	c      *conn
	g      *Gateway
	start  time.Time
	ctx    context.Context // has the span when tracing is on
	req    http1.Request
	body   requestBody
	target target
	client netip.Addr
	id     string
	route  string // the pattern, for logs and metrics

	// For the log line, as far as it got.
	user    uuid.UUID
	replica string
	trouble slog.Attr

	fields  []byte // what the gateway says in every answer, as lines
	limits  limit.Fields
	status  int // 0 until the answer has begun
	sent    int64
	closing bool // no other request follows on the connection
	broken  bool // the answer broke off

	up          upstream.Request
	stream      bool
	interrupted func() error
	interim     func(*http1.Response) error
}

// init prepares what all requests of a connection share.
func (x *exchange) init(c *conn) {
	x.c, x.g, x.body.c = c, c.g, c
	x.interrupted, x.interim = x.interruption, x.relayInterim
}

// serve answers a request, of which only the head was read. It tells whether
// another can be read from the connection.
func (x *exchange) serve(head string, err error) (again bool) {
	x.req = http1.Request{Fields: x.req.Fields[:0]}
	if err == nil {
		err = x.req.Parse(head)
	}
	x.id = requestID(&x.req)
	if err != nil {
		x.req = http1.Request{Fields: x.req.Fields[:0], Close: true}
	}
	x.body.start(&x.req)
	x.route, x.target = "", target{path: "/"}
	x.client, x.user, x.replica, x.trouble = x.c.peer, uuid.Nil, "", slog.Attr{}
	x.status, x.sent, x.closing, x.broken, x.stream = 0, 0, x.req.Close, false, false
	x.fields = append(x.fields[:0], httpx.HeaderRequestID+": "...)
	x.fields = append(x.fields, x.id...)
	x.fields = append(x.fields, "\r\nX-Content-Type-Options: nosniff\r\n"...)
	x.limits.Reset()
	x.ctx = x.g.recorder.Begin(context.Background(), x.req.Method, (*carrier)(&x.req.Fields))

	x.handle(err)

	x.g.recorder.End(x.ctx, httpx.Exchange{
		ID: x.id, Method: x.req.Method, Route: x.route, Path: x.target.path,
		Status: x.status, Bytes: x.sent, Took: time.Since(x.start), Notes: x.notes(),
	})
	switch {
	case x.broken:
		x.c.abort()
		return false
	case !x.closing && (x.body.Done() || x.body.drain()):
		return true
	case err != nil || !x.body.Done() || x.c.in.Buffered() > 0:
		x.c.linger()
	}
	return false
}

// handle answers with an error, or does what the request asks for.
func (x *exchange) handle(err error) {
	defer func() {
		if v := recover(); v != nil {
			x.g.log.ErrorContext(x.ctx, "panic in a handler", "request_id", x.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			x.closing = true
			if x.broken = x.status != 0; !x.broken {
				x.problem(fmt.Errorf("panic: %v", v))
			}
		}
	}()
	switch {
	case errors.Is(err, http1.ErrHeadTooLarge):
		err = errs.New(errs.HeadTooLarge, "the head may hold at most %d bytes and %d fields", http1.MaxHead, http1.MaxFields)
	case err != nil:
		err = &errs.Error{Kind: errs.Malformed, Detail: "this is not a request that HTTP/1.1 allows", Err: err}
	default:
		err = x.g.serve(x)
	}
	if err != nil {
		x.problem(err)
	}
}

// notes are the log line's attributes that only a gateway knows.
func (x *exchange) notes() []slog.Attr {
	if !x.g.recorder.Logs(x.ctx, x.status) {
		return nil
	}
	notes := []slog.Attr{slog.String("client", x.client.String())}
	if x.user != uuid.Nil {
		notes = append(notes, slog.String("user_id", x.user.String()))
	}
	if x.replica != "" {
		notes = append(notes, slog.String("upstream", x.replica))
	}
	if x.trouble.Key != "" {
		notes = append(notes, x.trouble)
	}
	return notes
}

// set adds a field to the answer. The value is ours or was checked.
func (x *exchange) set(name, value string) { x.fields = appendField(x.fields, name, value) }

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// problem answers with an error.
func (x *exchange) problem(err error) {
	if x.body.problem != nil {
		x.closing = true
	}
	p := httpx.NewProblem(err, x.target.path, x.id)
	x.trouble = p.Note
	if c := authn.Challenge(err, len(x.req.Get("authorization")) > 0); c != "" {
		x.set("WWW-Authenticate", c)
	}
	if p.RetryAfter != "" {
		x.set("Retry-After", p.RetryAfter)
	}
	x.set("Content-Type", httpx.ProblemType)
	x.set("Cache-Control", "no-store")
	x.reply(p.Status, p.Body)
}

// reply sends an answer of the gateway's own.
func (x *exchange) reply(status int, body []byte) {
	// A body that is too long to be read just for the next request, or that the
	// client holds back until it is asked for it, ends the connection.
	if !x.body.Done() && (x.body.expect || x.req.Length > maxDrain) {
		x.closing = true
	}
	x.status = status
	x.set("Date", time.Now().UTC().Format(http.TimeFormat))
	if status != http.StatusNoContent {
		x.set("Content-Length", strconv.Itoa(len(body)))
	}
	b := x.endHead(x.appendHead(nil, status))
	if x.req.Method != http.MethodHead {
		b = append(b, body...)
		x.sent = int64(len(body))
	}
	if err := x.c.write(b); err != nil {
		x.closing = true
	}
}

// appendHead begins an answer with what the gateway has to say.
func (x *exchange) appendHead(b []byte, status int) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	b = append(b, x.fields...)
	return x.limits.Append(b)
}

// endHead ends the head of an answer, after its last field.
func (x *exchange) endHead(b []byte) []byte {
	if x.closing = x.closing || x.g.stopping.Load(); x.closing {
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// requestID keeps a client's id of up to 200 visible ASCII bytes, else makes one.
func requestID(q *http1.Request) string {
	id, n := "", 0
	for _, f := range q.Fields {
		if f.Name == "x-request-id" {
			id = f.Value
			n++
		}
	}
	if n == 1 && httpx.ValidRequestID(id) {
		return id
	}
	// A UUIDv7. It is a name and no secret, so its bits need not be hard to guess.
	var made uuid.UUID
	binary.BigEndian.PutUint64(made[:8], uint64(time.Now().UnixMilli())<<16|7<<12|rand.Uint64()>>52) //nolint:gosec // see above
	binary.BigEndian.PutUint64(made[8:], 2<<62|rand.Uint64()>>2)                                     //nolint:gosec // see above
	return made.String()
}

// carrier shows OpenTelemetry a request's fields.
type carrier []http1.Field

// Get returns the value of a field.
func (c *carrier) Get(name string) string {
	q := http1.Request{Fields: *c}
	return q.Get(name) // OpenTelemetry asks in lower case
}

// Set is not used: what goes to a service is made anew.
func (c *carrier) Set(string, string) {}

// Keys is not used by propagation.TraceContext.
func (c *carrier) Keys() []string { return nil }
