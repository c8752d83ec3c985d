// Package edge is the gateway's HTTP side: it refuses what must not get in, in
// a fixed order, and forwards the rest.
package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync/atomic"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/gateway/internal/limit"
	"github.com/tiffin-platform/tiffin/gateway/internal/upstream"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// Config is what a Gateway needs. Limiters that are nil do not limit.
type Config struct {
	Verifier       *authn.Verifier
	Upstreams      map[Service]*upstream.Pool
	IP             *limit.Limiter // per address, before the token is looked at
	Login          *limit.Limiter // per address, for register, login and password
	User           *limit.Limiter // per user, after the token
	TrustedProxies []netip.Prefix // whose X-Forwarded-For counts
	CORSOrigins    []string       // "*" for all; empty: closed
	OpenAPI        []byte         // the description of the API, JSON
	Routes         []Route        // see Routes
}

// Gateway answers all requests from outside.
type Gateway struct {
	cfg      Config
	log      *slog.Logger
	table    table
	cors     cors
	proxy    *httputil.ReverseProxy
	handler  http.Handler
	openAPI  []byte
	limited  *prometheus.CounterVec
	times    times
	stopping chan struct{} // closed when streams must end
	hurry    atomic.Bool   // connections are cut now
}

// New returns a gateway.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Gateway, error) {
	var doc bytes.Buffer
	if err := json.Compact(&doc, cfg.OpenAPI); err != nil {
		return nil, fmt.Errorf("read the API's description: %w", err)
	}
	g := &Gateway{
		cfg: cfg, log: log, table: newTable(cfg.Routes), cors: cfg.CORSOrigins, openAPI: doc.Bytes(), times: requestTimes,
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_gateway_limited_total",
			Help: "Requests refused with 429.",
		}, []string{"policy"}),
		stopping: make(chan struct{}),
	}
	reg.MustRegister(g.limited)
	for policy, l := range map[string]*limit.Limiter{"ip": cfg.IP, "login": cfg.Login, "user": cfg.User} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "tiffin_gateway_limit_clients",
			Help:        "Clients that the limiter remembers now.",
			ConstLabels: prometheus.Labels{"policy": policy},
		}, func() float64 { return float64(l.Clients()) }))
		g.limited.WithLabelValues(policy) // shown before the first one too
	}
	g.proxy = g.newProxy()

	m := httpx.NewRouter(log, reg)
	serve := httpx.HandlerFunc(g.serve)
	handle := func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			authn.WriteProblem(w, r, err)
		}
	}
	// The gateway routes by itself: what chi finds no route or method for comes
	// to the same handler.
	m.HandleFunc("/*", handle)
	m.NotFound(handle)
	m.MethodNotAllowed(handle)
	g.handler = m
	return g, nil
}

// serve refuses in the order that the API promises, or forwards.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) error {
	setRoute(r, "")
	if c, ok := r.Context().Value(connKey{}).(*conn); ok && c.refused() {
		w.Header().Set("Connection", "close")
		return errs.New(errs.Malformed, "the framing of the request is not acceptable")
	}
	if status, ok := r.Context().Value(nativeKey{}).(int); ok {
		return nativeProblem(status)
	}
	if len(r.Header["Upgrade"]) > 0 {
		return errs.New(errs.Malformed, "protocol upgrades are not offered")
	}
	t, err := parseTarget(r.RequestURI)
	if err != nil {
		r.URL.Path, r.URL.RawPath = "/", "" // the instance of the problem shows no tricks
		return err
	}
	t.apply(r.URL)
	e := g.table.find(t.path)
	if e != nil {
		setRoute(r, e.pattern)
	}
	if !knownMethod(r.Method) {
		return methodNotAllowed(w, r, e)
	}
	route := e.route(r.Method)
	asks := g.cors.announce(w.Header(), r) && preflight(r)

	client := clientAddr(r, g.cfg.TrustedProxies)
	httpx.Note(r.Context(), slog.String("client", client.String()))
	if err := g.limitAddr(w, client, route); err != nil {
		return err
	}
	access, ok := areaOf(t.path)
	if !ok {
		return errs.New(errs.NotFound, "there is nothing at this path")
	}
	if asks && e != nil {
		answerPreflight(w, e.allow) // browsers send it without credentials
		return nil
	}
	if access != public {
		if err := g.authorize(w, r, access); err != nil {
			return err
		}
	}
	if e == nil {
		return errs.New(errs.NotFound, "there is nothing at this path")
	}
	if route == nil {
		return methodNotAllowed(w, r, e)
	}
	if err := checkBody(r); err != nil {
		return err
	}
	if route.Service == Self {
		return g.describe(w)
	}
	g.forward(w, r, route, client)
	return nil
}

func (g *Gateway) limitAddr(w http.ResponseWriter, client netip.Addr, route *Route) error {
	key := limit.AddrKey(client)
	if err := g.take(w, "ip", g.cfg.IP, key); err != nil {
		return err
	}
	if route != nil && route.login {
		return g.take(w, "login", g.cfg.Login, key)
	}
	return nil
}

// authorize asks for a token, a role and room within the user's limit.
func (g *Gateway) authorize(w http.ResponseWriter, r *http.Request, a access) error {
	p, err := g.cfg.Verifier.Authenticate(r)
	if err != nil {
		return err
	}
	httpx.Note(r.Context(), slog.String("user_id", p.UserID.String()))
	if a == admin && p.Role != authn.Admin {
		return errs.New(errs.Forbidden, "this needs the role %s", authn.Admin)
	}
	return g.take(w, "user", g.cfg.User, limit.UserKey(p.UserID))
}

func (g *Gateway) take(w http.ResponseWriter, policy string, l *limit.Limiter, k limit.Key) error {
	v := l.Take(k)
	l.Announce(w.Header(), v)
	if v.OK {
		return nil
	}
	g.limited.WithLabelValues(policy).Inc()
	return &errs.Error{Kind: errs.RateLimited, Detail: "too many requests; wait as Retry-After says", RetryAfter: v.RetryAfter}
}

func (g *Gateway) describe(w http.ResponseWriter) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	_, _ = w.Write(g.openAPI) // the client may be gone
	return nil
}

// checkBody refuses bodies that no route takes. What it cannot see yet, the
// length of a chunked one, is watched while it is forwarded.
func checkBody(r *http.Request) error {
	if r.ContentLength > httpx.MaxBody {
		return tooLarge()
	}
	for _, enc := range r.Header["Content-Encoding"] {
		if enc != "" {
			return errs.New(errs.UnsupportedMedia, "send the body without Content-Encoding")
		}
	}
	return nil
}

func tooLarge() *errs.Error {
	return errs.New(errs.TooLarge, "the body may hold at most %d bytes", httpx.MaxBody)
}

func methodNotAllowed(w http.ResponseWriter, r *http.Request, e *entry) error {
	allow := "GET, HEAD, POST, PUT, DELETE"
	if e != nil {
		allow = e.allow
	}
	w.Header().Set("Allow", allow)
	return errs.New(errs.MethodNotAllowed, "%.16q is not a method of this path", r.Method)
}

// knownMethod keeps out TRACE, CONNECT and what nobody registered: no route
// has them, whoever asks.
func knownMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

func (e *entry) route(method string) *Route {
	if e == nil {
		return nil
	}
	return e.methods[method]
}

// setRoute tells the log line and the metrics which pattern was asked for.
func setRoute(r *http.Request, pattern string) {
	if rc := chi.RouteContext(r.Context()); rc != nil {
		rc.RoutePatterns = append(rc.RoutePatterns[:0], pattern)
	}
}

// nativeKey carries the status of an answer that net/http gave by itself into
// the request that stands for it.
type nativeKey struct{}

func nativeProblem(status int) error {
	if status == http.StatusRequestHeaderFieldsTooLarge {
		return errs.New(errs.HeadTooLarge, "the head may hold at most %d bytes", httpx.MaxHead)
	}
	return &errs.Error{Kind: errs.Malformed, Detail: "this is not a request that HTTP/1.1 allows", Err: errors.New(http.StatusText(status))}
}

// answerNative answers in place of net/http, through the same middleware as
// every request: with a problem, a request id, a log line and metrics.
func (g *Gateway) answerNative(c *conn, status int) []byte {
	r, err := http.NewRequestWithContext(context.WithValue(context.Background(), nativeKey{}, status), "-", "/", http.NoBody)
	if err != nil {
		return nil // cannot happen: the parts are constant
	}
	r.RemoteAddr = c.RemoteAddr().String()
	w := &memoryWriter{header: http.Header{}}
	g.handler.ServeHTTP(w, r)
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %d\r\n", w.status, http.StatusText(w.status), w.body.Len())
	_ = w.header.Write(&out) // to memory
	out.WriteString("\r\n")
	out.Write(w.body.Bytes())
	return out.Bytes()
}

type memoryWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *memoryWriter) Header() http.Header { return w.header }

func (w *memoryWriter) WriteHeader(status int) { w.status = status }

func (w *memoryWriter) Write(p []byte) (int, error) { return w.body.Write(p) }
