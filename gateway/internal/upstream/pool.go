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
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Pool is the replicas of one service.
type Pool struct {
	service   string
	addresses []*address
	next      atomic.Uint32
	now       func() time.Time
	failures  *prometheus.CounterVec
	exchange  func(*address, *Request) (*Response, error)
}

// address is one replica.
type address struct {
	url         *url.URL
	hostPort    string
	path        string // before every request's
	outstanding atomic.Int64
	breaker     breaker

	mu   sync.Mutex
	idle []*conn // the one last used at the end
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
// one.
func NewPool(service string, addresses []*url.URL, m *Metrics, reg prometheus.Registerer, now func() time.Time) *Pool {
	p := &Pool{service: service, now: now, failures: m.failures, exchange: (*address).exchange}
	for _, u := range addresses {
		port := u.Port()
		if port == "" {
			port = u.Scheme // net knows both by name
		}
		p.addresses = append(p.addresses, &address{
			url: u, hostPort: net.JoinHostPort(u.Hostname(), port), path: strings.TrimSuffix(u.EscapedPath(), "/"),
		})
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "tiffin_gateway_upstream_resting",
		Help:        "Replicas that get no requests now because they failed lately.",
		ConstLabels: prometheus.Labels{"upstream": service},
	}, func() float64 { return float64(p.resting()) }))
	return p
}

// Run closes connections that were not used for a minute, until ctx ends.
func (p *Pool) Run(ctx context.Context) error {
	t := time.NewTicker(idleTimeout / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			for _, a := range p.addresses {
				a.closeIdle(time.Now().Add(-idleTimeout))
			}
		}
	}
}

// Close closes the connections that wait for requests.
func (p *Pool) Close() {
	for _, a := range p.addresses {
		a.closeIdle(time.Time{})
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

// Do sends the request to a replica and returns its answer, which must be
// closed. A request that cannot have reached a replica is tried at the others,
// and when all of them refuse, once more: while they restart in turn, the first
// may be back. One that was lost on the way is tried elsewhere only when it is a
// GET or HEAD without a body.
func (p *Pool) Do(req *Request) (*Response, error) {
	var few [8]bool
	tried := append(few[:0], make([]bool, len(p.addresses))...)
	left, again := len(p.addresses), len(p.addresses) > 1
	for {
		a, err := p.pick(tried)
		if err != nil {
			return nil, err
		}
		resp, err := p.try(a, req)
		if err == nil {
			return resp, nil
		}
		left--
		if left == 0 && again && dialFailed(err) {
			clear(tried)
			left, again = len(p.addresses), false
		}
		if left == 0 || !repeatable(req, err) {
			return nil, err
		}
	}
}

func repeatable(req *Request, err error) bool {
	if dialFailed(err) {
		return !req.uploading && time.Now().Before(req.Deadline)
	}
	return req.replayable() && lost(err)
}

// try sends the request to one replica.
func (p *Pool) try(a *address, req *Request) (*Response, error) {
	a.outstanding.Add(1)
	resp, err := p.exchange(a, req)
	if err != nil {
		a.outstanding.Add(-1)
		p.judge(a, err)
		return nil, fmt.Errorf("%s at %s: %w", p.service, a.url.Host, err)
	}
	resp.pool = p
	a.breaker.succeeded()
	return resp, nil
}

// judge counts a failure against the replica, unless it was the client's.
func (p *Pool) judge(a *address, err error) {
	var reason string
	_, caller := errors.AsType[*callerError](err)
	switch {
	case caller:
		a.breaker.undecided()
		return
	case dialFailed(err):
		reason = "unreachable"
		a.breaker.refused(p.now())
	case errors.Is(err, ErrTimeout):
		reason = "timeout"
		a.breaker.failed(p.now())
	default:
		reason = "broken"
		a.breaker.failed(p.now())
	}
	p.failures.WithLabelValues(p.service, reason).Inc()
}

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
