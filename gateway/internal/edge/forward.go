package edge

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
	"github.com/tiffin-platform/tiffin/gateway/internal/upstream"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// retryAfter is what clients are told when a service failed.
const retryAfter = time.Second

// errGone says that the client has left.
var errGone = errors.New("the client has left")

// forward sends the request to its service and the answer to the client. The
// client's leaving, the route's time limit and, for streams, the shutdown end
// the service's part.
func (g *Gateway) forward(x *exchange, route *Route) error {
	all, err := x.body.gather(x.req.Length)
	if err != nil {
		return err
	}
	scratch, _ := buffers.Get().(*[]byte)
	defer func() {
		if cap(*scratch) == bufferSize {
			buffers.Put(scratch)
		}
	}()
	x.stream = route.stream
	x.up = upstream.Request{
		Method: x.req.Method, Target: x.target.text, Fields: x.appendFields((*scratch)[:0], route),
		Deadline: time.Now().Add(route.timeout), Stream: route.stream,
		Interrupted: x.interrupted, Interim: x.interim,
	}
	switch {
	case x.up.Method == http.MethodHead:
		x.up.Method = http.MethodGet // services know GET
	case all:
		x.up.Body, x.up.Length = x.body.first, int64(len(x.body.first))
	default:
		if err := x.body.limit(); err != nil { // not by the goroutine that sends it
			return err
		}
		x.up.Upload, x.up.Length = &x.body, x.req.Length
	}
	resp, err := g.cfg.Upstreams[route.Service].Do(&x.up)
	// After a body that broke off the next request cannot be found.
	x.closing = x.closing || !x.body.Done()
	if err != nil {
		return x.failure(err)
	}
	x.relay(resp, route, scratch)
	return nil
}

// appendFields appends the fields that a service gets to see.
func (x *exchange) appendFields(b []byte, route *Route) []byte {
	tracing := x.g.recorder.Tracing()
	hop := connectionList(x.req.Fields)
	for _, f := range x.req.Fields {
		switch {
		case !forService(f.Name) || hop != "" && forThisHop(hop, f.Name):
		case f.Name == "idempotency-key" && !route.idempotent:
		case tracing && (f.Name == "traceparent" || f.Name == "tracestate"):
		default:
			b = appendField(b, f.Name, f.Value)
		}
	}
	b = append(b, "X-Forwarded-For: "...)
	b = x.client.AppendTo(b)
	b = append(b, "\r\n"...)
	b = appendField(b, httpx.HeaderRequestID, x.id)
	if tracing {
		m := propagation.MapCarrier{}
		otel.GetTextMapPropagator().Inject(x.ctx, m)
		for name, value := range m {
			b = appendField(b, name, value)
		}
	}
	return b
}

// interruption is asked while a service is waited for.
func (x *exchange) interruption() error {
	if x.stream && x.g.stopping.Load() {
		return errStopping
	}
	if x.g.hurry.Load() || x.c.in.Poll(x.c.look) != nil {
		return errGone
	}
	return nil
}

// failure is the error to answer with when no answer of the service can be
// passed on.
func (x *exchange) failure(err error) error {
	e := &errs.Error{Kind: errs.BadGateway, Detail: "the service broke off; try again", RetryAfter: retryAfter, Err: err}
	switch down, isDown := errors.AsType[*upstream.DownError](err); {
	case x.body.problem != nil:
		return x.body.problem
	case errors.Is(err, errGone):
		x.status, x.closing = httpx.StatusClientGone, true
		return nil
	case errors.Is(err, upstream.ErrTimeout):
		e.Kind, e.Detail = errs.GatewayTimeout, "the service did not answer in time; try again"
	case errors.Is(err, errStopping):
		e.Kind, e.Detail = errs.Unavailable, "the gateway is stopping; try again"
	case isDown:
		e.Kind, e.Detail, e.RetryAfter = errs.Unavailable, "the service is down; try again", down.RetryAfter
	case upstream.Unreached(err):
		e.Kind, e.Detail = errs.Unavailable, "the service cannot be reached; try again"
	}
	return e
}

// relayInterim passes on an interim answer, which HTTP/1.0 does not know.
func (x *exchange) relayInterim(p *http1.Response) error {
	if x.req.Old {
		return nil
	}
	b := append([]byte("HTTP/1.1 "), strconv.Itoa(p.Status)...)
	b = append(b, ' ')
	b = append(b, http.StatusText(p.Status)...)
	b = append(b, "\r\n"...)
	b = appendAnswerFields(b, p, false)
	return x.c.write(append(b, "\r\n"...))
}

// relay passes on an answer, each piece of its body as it comes, and closes it:
// before the client has the end of it and sends its next request.
func (x *exchange) relay(resp *upstream.Response, route *Route, scratch *[]byte) {
	x.replica, x.status = resp.Replica, resp.Status
	b := x.appendHead((*scratch)[:0], resp.Status)
	b = appendAnswerFields(b, &resp.Response, route.noStore)
	silent := x.req.Method == http.MethodHead || resp.Body.Done()
	chunked := false
	switch {
	case resp.Length > 0 || resp.Length == 0 && mayHaveBody(resp.Status):
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, resp.Length, 10)
		b = append(b, "\r\n"...)
	case silent:
	case x.req.Old:
		x.closing = true // which is how the body ends
	default:
		chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = x.endHead(b)
	b, err := x.relayBody(resp, b, chunked, silent)
	resp.Close()
	if err == nil && len(b) > 0 {
		err = x.c.write(b)
	}
	if err != nil {
		x.trouble = slog.String("cut", err.Error())
		x.broken = true
	}
	*scratch = b
}

// relayBody sends b and the body of an answer. What it returns is still to be
// sent: often head and body go in one piece.
func (x *exchange) relayBody(resp *upstream.Response, b []byte, chunked, silent bool) ([]byte, error) {
	for {
		piece, err := resp.Next()
		if errors.Is(err, http1.ErrMore) {
			if len(b) > 0 {
				if err := x.c.write(b); err != nil {
					return b, err
				}
				b = b[:0]
			}
			if err = resp.Wait(); err == nil {
				continue
			}
		}
		switch {
		case errors.Is(err, io.EOF) || chunked && errors.Is(err, errStopping): // streams end properly when the gateway stops
			if chunked {
				b = appendTrailers(append(b, "0\r\n"...), resp.Body.Trailers)
			}
			return b, nil
		case err != nil:
			return b, err
		case silent:
			continue
		case len(b)+len(piece)+16 > bufferSize:
			if err := x.c.write(b); err != nil {
				return b, err
			}
			b = b[:0]
		}
		x.sent += int64(len(piece))
		if chunked {
			b = upstream.AppendChunk(b, piece)
		} else {
			b = append(b, piece...)
		}
	}
}

func mayHaveBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}
