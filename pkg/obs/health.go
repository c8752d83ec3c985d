package obs

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// checkTimeout bounds one probe, all checks together.
const checkTimeout = 2 * time.Second

// Health answers /readyz: 200 when every decisive check passes, else 503, with
// the state of all checks in the body.
type Health struct {
	up     *prometheus.GaugeVec
	mu     sync.Mutex
	checks []check
}

type check struct {
	name     string
	decisive bool
	run      func(context.Context) error
}

func newHealth(reg prometheus.Registerer) *Health {
	h := &Health{up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
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
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // the prober may be gone
}
