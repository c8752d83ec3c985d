package edge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/gateway/internal/limit"
	"github.com/tiffin-platform/tiffin/gateway/internal/upstream"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
)

const patience = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a gateway on a real port before a real service that answers for all
// four and remembers what it was asked.
type rig struct {
	t        testing.TB
	addr     string
	issuer   *authntest.Issuer
	customer string // a token
	admin    string
	registry *prometheus.Registry
	logs     *lockedBuffer
	stop     context.CancelFunc
	stopped  chan error

	mu   sync.Mutex
	seen []*http.Request
}

type options struct {
	service   http.Handler // answers instead of the echo
	upstreams []string     // addresses instead of a service of the rig's own
	rates     map[string]string
	now       func() time.Time
	proxies   []string
	origins   []string
	timeout   time.Duration
	times     times
	level     slog.Level
	change    func(*Gateway) // before it serves
}

func setup(t testing.TB, o options) *rig {
	t.Helper()
	r := &rig{t: t, issuer: authntest.New(t), registry: prometheus.NewRegistry(), logs: &lockedBuffer{}, stopped: make(chan error, 1)}
	r.customer = r.issuer.Token(uuid.Must(uuid.NewV7()), authn.Customer)
	r.admin = r.issuer.Token(uuid.Must(uuid.NewV7()), authn.Admin)
	if o.service == nil {
		o.service = http.HandlerFunc(echo)
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.timeout == 0 {
		o.timeout = patience
	}
	if o.upstreams == nil {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			r.seen = append(r.seen, req.Clone(context.Background()))
			r.mu.Unlock()
			o.service.ServeHTTP(w, req)
		}))
		t.Cleanup(srv.Close)
		o.upstreams = []string{srv.URL}
	}
	var addresses []*url.URL
	for _, s := range o.upstreams {
		u, err := url.Parse(s)
		require.NoError(t, err)
		addresses = append(addresses, u)
	}
	metrics := upstream.NewMetrics(r.registry)
	pools := map[Service]*upstream.Pool{}
	for _, s := range []Service{Auth, Order, Payment, Notification} {
		pools[s] = upstream.NewPool(string(s), addresses, metrics, r.registry, o.now)
	}
	limiter := func(name string) *limit.Limiter {
		rate := "off"
		if s, ok := o.rates[name]; ok {
			rate = s
		}
		parsed, err := limit.ParseRate(rate)
		require.NoError(t, err)
		return limit.New(name, parsed, limit.DefaultCapacity, o.now)
	}
	cfg := Config{
		Verifier: r.issuer.Verifier(), Upstreams: pools, CORSOrigins: o.origins,
		IP: limiter("ip"), Login: limiter("login"), User: limiter("user"),
		OpenAPI: []byte(`{"openapi": "3.1.0"}`), Routes: Routes(o.timeout),
	}
	for _, p := range o.proxies {
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix(t, p))
	}
	g, err := New(cfg, slog.New(slog.NewJSONHandler(r.logs, &slog.HandlerOptions{Level: o.level})), r.registry)
	require.NoError(t, err)
	if o.times != (times{}) {
		g.times = o.times
		if g.times.write == 0 {
			g.times.write = requestTimes.write
		}
	}
	if o.change != nil {
		o.change(g)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.stopped <- g.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-r.stopped:
			require.NoError(t, err)
		case <-time.After(patience):
			require.Fail(t, "the gateway did not stop")
		}
		for _, p := range pools {
			p.Close()
		}
	})
	return r
}

// echo answers with what a service got to see.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "uri": r.RequestURI, "body": string(body)})
}

// requests returns what the service was asked.
func (r *rig) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*http.Request(nil), r.seen...)
}

// answer is a read response.
type answer struct {
	*http.Response
	body string
}

func (a answer) problem(t *testing.T) problem {
	t.Helper()
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), a.body)
	var p problem
	require.NoError(t, json.Unmarshal([]byte(a.body), &p), a.body)
	require.Equal(t, a.StatusCode, p.Status)
	require.Equal(t, a.Header.Get("X-Request-ID"), p.RequestID)
	require.NotEmpty(t, p.RequestID)
	require.Equal(t, "nosniff", a.Header.Get("X-Content-Type-Options"))
	return p
}

type problem struct {
	Type      string `json:"type"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Instance  string `json:"instance"`
	RequestID string `json:"request_id"`
}

// do sends a request on a connection of its own.
func (r *rig) do(method, path, token string, body io.Reader, fields ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.addr+path, body)
	require.NoError(r.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return answer{resp, string(b)}
}

func (r *rig) get(path, token string, fields ...string) answer {
	r.t.Helper()
	return r.do(http.MethodGet, path, token, nil, fields...)
}

// wire is a raw connection to the gateway.
type wire struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func (r *rig) dial() *wire {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	require.NoError(r.t, err)
	require.NoError(r.t, c.SetDeadline(time.Now().Add(patience)))
	r.t.Cleanup(func() { c.Close() })
	return &wire{c, r.t, bufio.NewReader(c)}
}

func (w *wire) send(s string) *wire {
	w.t.Helper()
	_, err := io.WriteString(w, s)
	require.NoError(w.t, err)
	return w
}

// answer reads one answer to a request of the given method.
func (w *wire) answer(method string) answer {
	w.t.Helper()
	resp, err := http.ReadResponse(w.r, &http.Request{Method: method})
	require.NoError(w.t, err)
	b, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return answer{resp, string(b)}
}

// closed requires that the gateway sends nothing more and closes.
func (w *wire) closed() {
	w.t.Helper()
	rest, err := io.ReadAll(w.r)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		require.NoError(w.t, err)
	}
	require.Empty(w.t, string(rest))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
