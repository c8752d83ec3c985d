package obs

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// checkTimeout bounds one probe, all checks together.
const checkTimeout = 2 * time.Second

// Health answers /readyz: 200 when every decisive check passes, else 503, with
// the state of all checks in the body. A service that was told to stop is not
// ready any more, so that nobody sends it new requests.
type Health struct {
	up       *prometheus.GaugeVec
	stopping <-chan struct{}
	mu       sync.Mutex
	checks   []check
}

type check struct {
	name     string
	decisive bool
	run      func(context.Context) error
}

func newHealth(reg prometheus.Registerer, stopping <-chan struct{}) *Health {
	h := &Health{stopping: stopping, up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tiffin_dependency_up",
		Help: "1 when the dependency answered the last readiness probe, else 0.",
	}, []string{"dependency"})}
	reg.MustRegister(h.up)
	return h
}

// Decisive adds a check without which the service cannot serve.
func (h *Health) Decisive(name string, run func(context.Context) error) {
	h.add(check{name, true, run})
}

// Gate adds a decisive check that fails until open is called, for what has to
// be done once before the service can serve, such as migrations.
func (h *Health) Gate(name string) (open func()) {
	var done atomic.Bool
	h.Decisive(name, func(context.Context) error {
		if !done.Load() {
			return errors.New("not done yet")
		}
		return nil
	})
	return func() { done.Store(true) }
}

// Reported adds a check that is shown but does not decide.
func (h *Health) Reported(name string, run func(context.Context) error) {
	h.add(check{name, false, run})
}

func (h *Health) add(c check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, c)
}

// ServeHTTP answers /readyz.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	h.mu.Lock()
	checks := append([]check(nil), h.checks...)
	h.mu.Unlock()

	results := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = c.run(ctx) })
	}
	wg.Wait()

	answer := struct {
		Ready  bool              `json:"ready"`
		Checks map[string]string `json:"checks"`
	}{Ready: len(checks) > 0, Checks: map[string]string{}}
	for i, c := range checks {
		up := 1.0
		answer.Checks[c.name] = "ok"
		if err := results[i]; err != nil {
			up = 0
			answer.Checks[c.name] = err.Error()
			answer.Ready = answer.Ready && !c.decisive
		}
		h.up.WithLabelValues(c.name).Set(up)
	}
	select {
	case <-h.stopping:
		answer.Ready, answer.Checks["service"] = false, "stopping"
	default:
	}
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // the prober may be gone
}
