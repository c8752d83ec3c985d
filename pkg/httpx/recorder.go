package httpx

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/obs"
)

// Recorder makes the metrics, the spans when tracing is on, and the one wide
// log line of requests.
type Recorder struct {
	log      *slog.Logger
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	tracing  bool
}

// NewRecorder registers the metrics of all requests.
func NewRecorder(log *slog.Logger, reg prometheus.Registerer) *Recorder {
	r := &Recorder{
		log: log,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tiffin_http_request_seconds",
			Help:    "Time to answer a request, until its last byte was written.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"method", "route", "status"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tiffin_http_requests_in_flight",
			Help: "Requests being answered now, streams included.",
		}),
		tracing: obs.Tracing(),
	}
	reg.MustRegister(r.seconds, r.inFlight)
	return r
}

// Tracing tells whether requests get spans.
func (r *Recorder) Tracing() bool { return r.tracing }

// Begin counts a request that begins. When tracing is on, the context that it
// returns has the request's span.
func (r *Recorder) Begin(ctx context.Context, method string, fields propagation.TextMapCarrier) context.Context {
	r.inFlight.Inc()
	if r.tracing {
		ctx = otel.GetTextMapPropagator().Extract(ctx, fields)
		ctx, _ = otel.Tracer("tiffin/httpx").Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer))
	}
	return ctx
}

// Exchange is a request that was answered.
type Exchange struct {
	ID, Method  string
	Route, Path string // the pattern, "" when there is none, and the path itself
	Status      int
	Bytes       int64 // of the answer's body
	Took        time.Duration
	Notes       []slog.Attr // further attributes of the log line
}

// Logs tells whether an answer with this status gets a log line, so that nobody
// collects attributes for nothing.
func (r *Recorder) Logs(ctx context.Context, status int) bool {
	return r.log.Enabled(ctx, level(status))
}

func level(status int) slog.Level {
	if status >= 500 {
		return slog.LevelError
	}
	return slog.LevelInfo
}

// End notes a request whose context Begin returned.
func (r *Recorder) End(ctx context.Context, x Exchange) {
	r.inFlight.Dec()
	if x.Route == "" {
		x.Route = "unmatched"
	}
	method := boundedMethod(x.Method)
	r.seconds.WithLabelValues(method, x.Route, strconv.Itoa(x.Status)).Observe(x.Took.Seconds())
	if r.Logs(ctx, x.Status) {
		r.log.LogAttrs(ctx, level(x.Status), "request", append([]slog.Attr{
			slog.String("request_id", x.ID),
			slog.String("method", method),
			slog.String("route", x.Route),
			slog.String("path", clip(x.Path)),
			slog.Int("status", x.Status),
			slog.Int64("bytes", x.Bytes),
			slog.Float64("ms", float64(x.Took.Microseconds())/1000),
		}, x.Notes...)...)
	}
	if r.tracing {
		span := trace.SpanFromContext(ctx)
		span.SetName(x.Method + " " + x.Route)
		span.SetAttributes(attribute.String("http.request.method", x.Method), attribute.String("http.route", x.Route),
			attribute.Int("http.response.status_code", x.Status), attribute.String("tiffin.request_id", x.ID))
		if x.Status >= 500 {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

// boundedMethod keeps what a client may invent out of labels.
func boundedMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}
