// Package obs gives a service its logger, metrics, traces and the admin server
// that shows them: /metrics, /livez, /readyz and /debug/pprof, on a port of its
// own that is not for clients.
package obs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tiffin-platform/tiffin/pkg/env"
)

// Config is what Start needs; see ConfigFrom for the settings.
type Config struct {
	Service   string // its name in logs, metrics and traces
	AdminAddr string
	LogLevel  slog.Level
	LogFormat string // json or text

	// TraceEndpoint is where OTLP traces go; tracing is off and free when empty.
	TraceEndpoint string
	TraceRatio    float64 // share of new traces that are recorded, 0 to 1
}

// ConfigFrom reads ADMIN_ADDR, LOG_LEVEL, LOG_FORMAT, OTEL_EXPORTER_OTLP_ENDPOINT
// and OTEL_TRACES_SAMPLER_ARG. The admin port is on loopback unless ADMIN_ADDR
// says otherwise.
func ConfigFrom(r *env.Reader, service, adminAddr string) Config {
	c := Config{
		Service:       service,
		AdminAddr:     r.Addr("ADMIN_ADDR", adminAddr),
		LogFormat:     r.OneOf("LOG_FORMAT", "json", "json", "text"),
		TraceEndpoint: r.String("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
		TraceRatio:    1,
	}
	if err := c.LogLevel.UnmarshalText([]byte(r.OneOf("LOG_LEVEL", "info", "debug", "info", "warn", "error"))); err != nil {
		r.Fail("LOG_LEVEL", "%v", err)
	}
	if v := r.String("OTEL_TRACES_SAMPLER_ARG", ""); v != "" {
		ratio, err := strconv.ParseFloat(v, 64)
		if c.TraceRatio = ratio; err != nil || !(ratio >= 0 && ratio <= 1) { // NaN is no ratio either
			r.Fail("OTEL_TRACES_SAMPLER_ARG", "%q must be a number from 0 to 1", v)
		}
	}
	if c.TraceEndpoint != "" {
		c.TraceEndpoint = r.URL("OTEL_EXPORTER_OTLP_ENDPOINT", "").String()
	}
	return c
}

// Obs is a started service's means of being observed.
type Obs struct {
	Log      *slog.Logger
	Registry *prometheus.Registry
	Health   *Health
	Admin    *chi.Mux // further admin routes may be added before they are asked for

	server *http.Server
	closed chan struct{}
	traces func(context.Context) error
}

// Start opens the admin port and begins to answer there: the service is alive
// from now on, and ready when its checks say so, until ctx ends.
func Start(ctx context.Context, cfg Config, stdout io.Writer) (*Obs, error) {
	log := NewLogger(cfg, stdout)
	traces, err := startTraces(ctx, cfg)
	if err != nil {
		return nil, err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(cfg.Service),
	)
	o := &Obs{Log: log, Registry: reg, Health: newHealth(reg, ctx.Done()), Admin: chi.NewRouter(), closed: make(chan struct{}), traces: traces}
	o.Admin.Get("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "alive\n") })
	o.Admin.Method(http.MethodGet, "/readyz", o.Health)
	o.Admin.Method(http.MethodGet, "/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	o.Admin.HandleFunc("/debug/pprof/*", pprof.Index)
	o.Admin.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	o.Admin.HandleFunc("/debug/pprof/profile", pprof.Profile)
	o.Admin.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	o.Admin.HandleFunc("/debug/pprof/trace", pprof.Trace)

	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.AdminAddr)
	if err != nil {
		return nil, fmt.Errorf("admin port %s (is another process using it? set ADMIN_ADDR to move): %w", cfg.AdminAddr, err)
	}
	log.Info("admin listening", "addr", l.Addr().String())
	o.server = &http.Server{Handler: o.Admin, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	go func() {
		defer close(o.closed)
		if err := o.server.Serve(l); err != http.ErrServerClosed {
			log.Error("admin server stopped", "error", err.Error())
		}
	}()
	return o, nil
}

// Close flushes traces and closes the admin port.
func (o *Obs) Close() {
	limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := o.traces(limit); err != nil {
		o.Log.Warn("last traces were lost", "error", err.Error())
	}
	if err := o.server.Close(); err != nil {
		o.Log.Warn("close admin port", "error", err.Error())
	}
	<-o.closed
}

// NewLogger returns the service's logger.
func NewLogger(cfg Config, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if cfg.LogFormat == "text" {
		h = slog.NewTextHandler(w, opts)
	}
	return slog.New(traceHandler{h}).With("service", cfg.Service)
}

// buildInfo is a constant metric that tells which build runs.
func buildInfo(service string) prometheus.Collector {
	version, goVersion := "unknown", "unknown"
	if bi, ok := debug.ReadBuildInfo(); ok {
		version, goVersion = bi.Main.Version, bi.GoVersion
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "tiffin_build_info",
		Help:        "Always 1; the labels tell what runs.",
		ConstLabels: prometheus.Labels{"service": service, "version": version, "go": goVersion, "host": host},
	}, func() float64 { return 1 })
}
