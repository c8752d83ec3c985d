// Package edge is the gateway's HTTP side: it refuses what must not get in, in
// a fixed order, and forwards the rest.
package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
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
	recorder *httpx.Recorder
	openAPI  []byte
	limited  *prometheus.CounterVec
	times    times
	conns    conns
	stopping atomic.Bool // streams end and connections close after their request
	hurry    atomic.Bool // connections are cut now
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
		recorder: httpx.NewRecorder(log, reg),
		conns:    conns{slots: make(chan struct{}, maxConns), open: map[*conn]bool{}},
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
	return g, nil
}

// serve refuses in the order that the API promises, or forwards. What HTTP
// itself forbids was refused before.
func (g *Gateway) serve(x *exchange) error {
	for _, f := range x.req.Fields {
		if f.Name == "upgrade" {
			return errs.New(errs.Malformed, "protocol upgrades are not offered")
		}
	}
	t, err := parseTarget(x.req.Target)
	if err != nil {
		return err
	}
	x.target = t
	e := g.table.find(t.path)
	if e != nil {
		x.route = e.pattern
	}
	if !knownMethod(x.req.Method) {
		return methodNotAllowed(x, e)
	}
	route := e.route(x.req.Method)
	asks := g.cors.announce(x) && x.preflight()

	x.client = clientAddr(x.c.peer, x.req.Fields, g.cfg.TrustedProxies)
	if err := g.limitAddr(x, route); err != nil {
		return err
	}
	access, ok := areaOf(t.path)
	if !ok {
		return errs.New(errs.NotFound, "there is nothing at this path")
	}
	if asks && e != nil {
		x.answerPreflight(e.allow) // browsers send it without credentials
		return nil
	}
	if access != public {
		if err := g.authorize(x, access); err != nil {
			return err
		}
	}
	if e == nil {
		return errs.New(errs.NotFound, "there is nothing at this path")
	}
	if route == nil {
		return methodNotAllowed(x, e)
	}
	if err := checkBody(&x.req); err != nil {
		return err
	}
	if route.Service == Self {
		g.describe(x)
		return nil
	}
	return g.forward(x, route)
}

func (g *Gateway) limitAddr(x *exchange, route *Route) error {
	key := limit.AddrKey(x.client)
	if err := g.take(x, "ip", g.cfg.IP, key); err != nil {
		return err
	}
	if route != nil && route.login {
		return g.take(x, "login", g.cfg.Login, key)
	}
	return nil
}

// authorize asks for a token, a role and room within the user's limit.
func (g *Gateway) authorize(x *exchange, a access) error {
	var room [2]string // two are one too many
	sent := room[:0]
	for _, f := range x.req.Fields {
		if f.Name == "authorization" && len(sent) < len(room) {
			sent = append(sent, f.Value)
		}
	}
	p, err := g.cfg.Verifier.Authenticate(x.ctx, sent)
	if err != nil {
		return err
	}
	x.user = p.UserID
	if a == admin && p.Role != authn.Admin {
		return errs.New(errs.Forbidden, "this needs the role %s", authn.Admin)
	}
	return g.take(x, "user", g.cfg.User, limit.UserKey(p.UserID))
}

func (g *Gateway) take(x *exchange, policy string, l *limit.Limiter, k limit.Key) error {
	v := l.Take(k)
	l.Announce(&x.limits, v)
	if v.OK {
		return nil
	}
	g.limited.WithLabelValues(policy).Inc()
	return &errs.Error{Kind: errs.RateLimited, Detail: "too many requests; wait as Retry-After says", RetryAfter: v.RetryAfter}
}

func (g *Gateway) describe(x *exchange) {
	x.set("Content-Type", "application/json")
	x.set("Cache-Control", "public, max-age=300")
	x.reply(http.StatusOK, g.openAPI)
}

// checkBody refuses bodies that no route takes. What it cannot see yet, the
// length of a chunked one, is watched while it is forwarded.
func checkBody(q *http1.Request) error {
	if q.Length > httpx.MaxBody {
		return tooLarge()
	}
	for _, f := range q.Fields {
		if f.Name == "content-encoding" && f.Value != "" {
			return errs.New(errs.UnsupportedMedia, "send the body without Content-Encoding")
		}
	}
	return nil
}

func tooLarge() *errs.Error {
	return errs.New(errs.TooLarge, "the body may hold at most %d bytes", httpx.MaxBody)
}

func methodNotAllowed(x *exchange, e *entry) error {
	allow := "GET, HEAD, POST, PUT, DELETE"
	if e != nil {
		allow = e.allow
	}
	x.set("Allow", allow)
	return errs.New(errs.MethodNotAllowed, "%.16q is not a method of this path", x.req.Method)
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
