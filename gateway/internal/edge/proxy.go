package edge

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/tiffin-platform/tiffin/gateway/internal/upstream"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/obs"
)

// retryAfter is what clients are told when a service failed.
const retryAfter = time.Second

// errStopping is the cause with which streams end at shutdown.
var errStopping = errors.New("the gateway is stopping")

// exchange is one forwarded request. It travels in the context.
type exchange struct {
	w      http.ResponseWriter
	in     *http.Request // as the client sent it, for its problem
	route  *Route
	client netip.Addr
	body   *requestBody
	timer  *time.Timer
	fields http.Header // what the gateway has set on the answer so far
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// forward sends the request to its service and the answer to the client. The
// client's leaving, the route's time limit and, for streams, the shutdown end
// the service's part.
func (g *Gateway) forward(w http.ResponseWriter, r *http.Request, route *Route, client netip.Addr) {
	scrub(r.Header)
	x := &exchange{w: w, in: r, route: route, client: client, fields: w.Header().Clone()}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), exchangeKey{}, x))
	defer cancel(nil)
	x.timer = time.AfterFunc(route.timeout, func() { cancel(upstream.ErrTimeout) })
	defer x.timer.Stop()
	out := r.WithContext(ctx)
	if r.ContentLength != 0 {
		x.body = &requestBody{ReadCloser: r.Body}
		out.Body = x.body
	}
	if route.stream {
		ctrl := http.NewResponseController(w)
		// The server's limit is for reading the request; a stream outlives it.
		if err := ctrl.SetReadDeadline(time.Time{}); err != nil {
			httpx.Note(ctx, slog.String("stream_deadline", err.Error()))
		}
		go func() { // ends with the request
			select {
			case <-g.stopping:
				cancel(errStopping)
			case <-ctx.Done():
			}
		}()
	}
	g.proxy.ServeHTTP(w, out)
}

func (g *Gateway) newProxy() *httputil.ReverseProxy {
	tracing := obs.Tracing()
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			x := exchangeOf(pr.In.Context())
			h := pr.Out.Header
			h.Set("X-Forwarded-For", x.client.String())
			h.Set(httpx.HeaderRequestID, httpx.RequestID(pr.In.Context()))
			if !x.route.idempotent {
				delete(h, "Idempotency-Key") // net/http takes it as leave to send twice
			}
			if tracing {
				otel.GetTextMapPropagator().Inject(pr.In.Context(), propagation.HeaderCarrier(h))
			}
			if pr.Out.Method == http.MethodHead {
				pr.Out.Method = http.MethodGet // services know GET; net/http drops the body
			}
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery // checked; net/http would rewrite it
			pr.Out.Trailer = nil
		},
		Transport:      &byService{g},
		ModifyResponse: g.adopt,
		ErrorHandler:   g.fail,
		ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		BufferPool:     &buffers{sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}},
	}
}

// byService picks the pool of the route's service.
type byService struct{ g *Gateway }

func (t *byService) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.g.cfg.Upstreams[exchangeOf(r.Context()).route.Service].RoundTrip(r)
}

// adopt makes a service's answer the gateway's.
func (g *Gateway) adopt(resp *http.Response) error {
	x := exchangeOf(resp.Request.Context())
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("the service switched protocols unasked")
	}
	httpx.Note(x.in.Context(), slog.String("upstream", resp.Request.URL.Host))
	h := resp.Header
	for _, name := range ours {
		delete(h, name)
	}
	// An interim answer (1xx) has emptied the header on its way; say it again.
	set := x.w.Header()
	for name, v := range x.fields {
		set[name] = v
	}
	x.settleBody()
	if x.route.noStore {
		h.Set("Cache-Control", "no-store")
	}
	if x.route.stream {
		x.timer.Stop()
		resp.Body = &streamBody{ReadCloser: resp.Body, ctx: resp.Request.Context()}
	}
	return nil
}

// fail answers when no answer of the service can be passed on.
func (g *Gateway) fail(w http.ResponseWriter, out *http.Request, err error) {
	x := exchangeOf(out.Context())
	for name, v := range x.fields {
		w.Header()[name] = v
	}
	x.settleBody()
	e := &errs.Error{Kind: errs.BadGateway, Detail: "the service broke off; try again", RetryAfter: retryAfter, Err: err}
	switch down, isDown := errors.AsType[*upstream.DownError](err); {
	case x.body.problem() != nil:
		// First, because net/http ends the context as well when a body fails.
		e = x.body.problem()
	case x.in.Context().Err() != nil:
		httpx.WriteProblem(w, x.in, context.Canceled) // the client left
		return
	case errors.Is(context.Cause(out.Context()), upstream.ErrTimeout):
		e.Kind, e.Detail = errs.GatewayTimeout, "the service did not answer in time; try again"
	case errors.Is(context.Cause(out.Context()), errStopping):
		e.Kind, e.Detail = errs.Unavailable, "the gateway is stopping; try again"
	case isDown:
		e.Kind, e.Detail, e.RetryAfter = errs.Unavailable, "the service is down; try again", down.RetryAfter
	case upstream.Unreached(err):
		e.Kind, e.Detail = errs.Unavailable, "the service cannot be reached; try again"
	}
	httpx.WriteProblem(w, x.in, e)
}

// settleBody prepares for an answer that comes before the request's body was
// read to its end. net/http would wait for the rest first, behind the read that
// is under way, for as long as the client takes. So answer at once, and close:
// after a body that broke off the next request cannot be found.
func (x *exchange) settleBody() {
	if x.body == nil || x.body.done.Load() {
		return
	}
	if err := http.NewResponseController(x.w).EnableFullDuplex(); err != nil {
		httpx.Note(x.in.Context(), slog.String("early_answer", err.Error()))
	}
	x.w.Header().Set("Connection", "close")
}

// requestBody watches a body on its way to the service.
type requestBody struct {
	io.ReadCloser
	n      int64
	done   atomic.Bool // read to its end
	failed atomic.Pointer[errs.Error]
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if b.n > httpx.MaxBody {
		b.failed.Store(tooLarge())
		return 0, tooLarge()
	}
	if err == io.EOF {
		b.done.Store(true)
	} else if err != nil {
		b.failed.Store(&errs.Error{Kind: errs.Malformed, Detail: "the body ended early, came too slowly or is badly framed", Err: err})
	}
	return n, err
}

// problem returns what went wrong with the body, nil when nothing did.
func (b *requestBody) problem() *errs.Error {
	if b == nil {
		return nil
	}
	return b.failed.Load()
}

// streamBody ends a stream properly when the gateway stops, so that clients see
// an end and not a broken connection.
type streamBody struct {
	io.ReadCloser
	ctx context.Context
}

func (b *streamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && errors.Is(context.Cause(b.ctx), errStopping) {
		err = io.EOF
	}
	return n, err
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte { return *b.pool.Get().(*[]byte) }

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
