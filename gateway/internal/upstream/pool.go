// Package upstream sends requests to the replicas of a service.
//
// A Pool chooses the address with the fewest requests outstanding, leaves out
// those that failed lately, tries another address where that is safe, and says
// at once that a service is down instead of letting clients wait for it.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Pool is the replicas of one service. It is an http.RoundTripper.
type Pool struct {
	service   string
	addresses []*address
	transport http.RoundTripper
	next      atomic.Uint32
	now       func() time.Time
	failures  *prometheus.CounterVec
}

// address is one replica.
type address struct {
	url         *url.URL
	outstanding atomic.Int64
	breaker     breaker
}

// Metrics are the metrics of all pools.
type Metrics struct {
	failures *prometheus.CounterVec
}

// NewMetrics registers the metrics of all pools.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_gateway_upstream_failures_total",
			Help: "Tries to get an answer from a replica that failed.",
		}, []string{"upstream", "reason"}),
	}
	reg.MustRegister(m.failures)
	return m
}

// NewPool returns the pool of a service's addresses, of which there is at least
// one. The transport is shared by all pools.
func NewPool(service string, addresses []*url.URL, transport http.RoundTripper, m *Metrics, reg prometheus.Registerer, now func() time.Time) *Pool {
	p := &Pool{service: service, transport: transport, now: now, failures: m.failures}
	for _, u := range addresses {
		p.addresses = append(p.addresses, &address{url: u})
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "tiffin_gateway_upstream_resting",
		Help:        "Replicas that get no requests now because they failed lately.",
		ConstLabels: prometheus.Labels{"upstream": service},
	}, func() float64 { return float64(p.resting()) }))
	return p
}

// NewTransport returns the transport for all pools. Answers pass through as they
// come: no decompression, no HTTP/2 upgrade, no proxy of the environment.
func NewTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        time.Minute, // services keep theirs for two
		TLSHandshakeTimeout:    3 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
	}
}

// DownError says that no replica may be asked now.
type DownError struct {
	Service    string
	RetryAfter time.Duration
}

func (e *DownError) Error() string { return e.Service + " is resting after failures" }

// Unreached tells whether err says that the request was never sent.
func Unreached(err error) bool {
	if _, ok := errors.AsType[*DownError](err); ok {
		return true
	}
	return dialFailed(err)
}

func dialFailed(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// RoundTrip sends the request to a replica. The URL of req has only path and
// query. A request that cannot have reached a replica is tried at the others;
// one that was lost on the way only when it is a GET or HEAD without a body.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	body := &touched{ReadCloser: req.Body}
	tried := make([]bool, len(p.addresses))
	for left := len(p.addresses); ; {
		a, err := p.pick(tried)
		if err != nil {
			return nil, err
		}
		resp, err := p.try(a, req, body)
		if err == nil {
			return resp, nil
		}
		left--
		if left == 0 || req.Context().Err() != nil || !repeatable(req, err, body) {
			return nil, err
		}
	}
}

func repeatable(req *http.Request, err error, body *touched) bool {
	if dialFailed(err) {
		return !body.read.Load()
	}
	return req.Body == nil && (req.Method == http.MethodGet || req.Method == http.MethodHead) && lost(err)
}

// try sends the request to one replica.
func (p *Pool) try(a *address, req *http.Request, body *touched) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = a.url.Scheme, a.url.Host
	out.URL.Path = a.url.Path + req.URL.Path
	if req.URL.RawPath != "" {
		out.URL.RawPath = a.url.EscapedPath() + req.URL.RawPath
	}
	out.Host = a.url.Host
	if req.Body != nil {
		out.Body = body
	}
	a.outstanding.Add(1)
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		a.outstanding.Add(-1)
		p.judge(req.Context(), a, body, err)
		return nil, fmt.Errorf("%s at %s: %w", p.service, a.url.Host, err)
	}
	a.breaker.succeeded()
	resp.Body = &answer{ReadCloser: resp.Body, pool: p, address: a, ctx: req.Context()}
	return resp, nil
}

// judge counts a failure against the replica, unless it was the client's.
func (p *Pool) judge(ctx context.Context, a *address, body *touched, err error) {
	var reason string
	switch {
	case body.failed.Load(), ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrTimeout):
		a.breaker.undecided()
		return
	case dialFailed(err):
		reason = "unreachable"
		a.breaker.refused(p.now())
	case ctx.Err() != nil:
		reason = "timeout"
		a.breaker.failed(p.now())
	default:
		reason = "broken"
		a.breaker.failed(p.now())
	}
	p.failures.WithLabelValues(p.service, reason).Inc()
}

// ErrTimeout is the cause with which the caller cancels a request's context
// when the service took too long; other causes are not held against it.
var ErrTimeout = errors.New("the service did not answer in time")

// pick returns the replica with the fewest requests outstanding among those
// not tried yet and not resting. When all rest, one whose port merely refused
// connections is asked again, for that costs nothing; else the answer is
// a DownError.
func (p *Pool) pick(tried []bool) (*address, error) {
	now := p.now()
	start := int(p.next.Add(1)) // rotates among equals
	var best, spare *address
	var bestAt, spareAt int
	var wait time.Duration
	for i := range p.addresses {
		at := (start + i) % len(p.addresses)
		a := p.addresses[at]
		if tried[at] {
			continue
		}
		rest, cheap := a.breaker.resting(now)
		switch {
		case rest <= 0:
			if best == nil || a.outstanding.Load() < best.outstanding.Load() {
				best, bestAt = a, at
			}
		case cheap:
			spare, spareAt = a, at
		case wait == 0 || rest < wait:
			wait = rest
		}
	}
	if best != nil && !best.breaker.enter(now) {
		// Another request took the one probe: go on as if it rested.
		tried[bestAt] = true
		return p.pick(tried)
	}
	if best == nil {
		best, bestAt = spare, spareAt
	}
	if best == nil {
		return nil, &DownError{Service: p.service, RetryAfter: max(wait, probeRetry)}
	}
	tried[bestAt] = true
	return best, nil
}

func (p *Pool) resting() int {
	n := 0
	for _, a := range p.addresses {
		if rest, _ := a.breaker.resting(p.now()); rest > 0 {
			n++
		}
	}
	return n
}

// lost tells whether err says that the connection ended before an answer began.
func lost(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && !op.Timeout() && (op.Op == "read" || op.Op == "write")
}

// touched notes whether a request's body was read, and whether reading failed.
type touched struct {
	io.ReadCloser
	read, failed atomic.Bool
}

func (b *touched) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.failed.Store(true)
	}
	return n, err
}

// Close leaves the body open for another try; the server closes it.
func (b *touched) Close() error { return nil }

// answer is a response's body; the request is outstanding until it is closed.
type answer struct {
	io.ReadCloser
	pool    *Pool
	address *address
	ctx     context.Context
	closed  atomic.Bool
}

func (b *answer) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.ctx.Err() == nil {
		b.address.breaker.failed(b.pool.now())
		b.pool.failures.WithLabelValues(b.pool.service, "cut").Inc()
	}
	return n, err
}

func (b *answer) Close() error {
	if b.closed.CompareAndSwap(false, true) {
		b.address.outstanding.Add(-1)
	}
	return b.ReadCloser.Close()
}
