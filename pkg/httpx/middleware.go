// Package httpx holds what every HTTP edge shares: handlers that return errors,
// problem+json, strict JSON, pages, server-sent events, the router with its
// middleware, and a server that starts and stops cleanly.
package httpx

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/obs"
)

// HeaderRequestID names a request across services and in every log line.
const HeaderRequestID = "X-Request-ID"

// requestInfo collects what the request's one log line will say. It belongs to
// the goroutine that serves the request.
type requestInfo struct {
	id     string
	status int
	notes  []slog.Attr
}

type infoKey struct{}

func info(ctx context.Context) *requestInfo {
	if i, ok := ctx.Value(infoKey{}).(*requestInfo); ok {
		return i
	}
	return &requestInfo{}
}

// RequestID returns the id of the request that ctx belongs to, "" outside one.
func RequestID(ctx context.Context) string { return info(ctx).id }

// Note adds attributes to the request's log line. Call it only from the
// goroutine that serves the request.
func Note(ctx context.Context, attrs ...slog.Attr) {
	i := info(ctx)
	i.notes = append(i.notes, attrs...)
}

// NewRouter returns a router that gives every request an id, a span, metrics
// and one log line, turns panics into a 500, and answers unknown paths and
// methods with problems.
func NewRouter(log *slog.Logger, reg prometheus.Registerer) *chi.Mux {
	m := chi.NewRouter()
	m.Use(Observe(log, reg), recoverer(log), noSniff)
	m.NotFound(Handle(func(http.ResponseWriter, *http.Request) error {
		return errs.New(errs.NotFound, "there is nothing at this path")
	}))
	m.MethodNotAllowed(Handle(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", strings.Join(allowed(m, r.URL.Path), ", "))
		return errs.New(errs.MethodNotAllowed, "%.16q is not a method of this path", r.Method)
	}))
	return m
}

// allowed returns the methods that path answers to (RFC 9110 §15.5.6 wants them
// in Allow; chi leaves that to custom handlers). It compares the routes itself,
// because chi matches every method of the path that a sub-router is mounted at.
func allowed(m chi.Routes, path string) []string {
	var methods []string
	asked := strings.Split(strings.TrimSuffix(path, "/"), "/")
	_ = chi.Walk(m, func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		segments := strings.Split(strings.TrimSuffix(route, "/"), "/")
		same := slices.EqualFunc(segments, asked, func(s, a string) bool { return s == a || s != "" && s[0] == '{' && a != "" })
		if same && !slices.Contains(methods, method) {
			methods = append(methods, method)
		}
		return nil // so that there is no error to look at
	})
	slices.Sort(methods)
	return methods
}

// Observe gives every request an id, a span when tracing is on, a metric and
// one wide log line.
func Observe(log *slog.Logger, reg prometheus.Registerer) func(http.Handler) http.Handler {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "tiffin_http_request_seconds",
		Help:    "Time to answer a request, until its last byte was written.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
	}, []string{"method", "route", "status"})
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tiffin_http_requests_in_flight",
		Help: "Requests being answered now, streams included.",
	})
	reg.MustRegister(seconds, inFlight)
	tracing := obs.Tracing()
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			inFlight.Inc()
			defer inFlight.Dec()
			i := &requestInfo{id: requestID(r)}
			ctx := context.WithValue(r.Context(), infoKey{}, i)
			var span trace.Span
			if tracing {
				ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.HeaderCarrier(r.Header))
				ctx, span = otel.Tracer("tiffin/httpx").Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
			}
			w.Header().Set(HeaderRequestID, i.id)
			rec := &recorder{ResponseWriter: w, info: i}
			r = r.WithContext(ctx)
			defer func() {
				route := "unmatched"
				if p := chi.RouteContext(r.Context()).RoutePattern(); p != "" && !strings.HasSuffix(p, "/*") {
					route = p
				}
				if i.status == 0 {
					i.status = http.StatusOK
				}
				took := time.Since(start)
				seconds.WithLabelValues(boundedMethod(r.Method), route, strconv.Itoa(i.status)).Observe(took.Seconds())
				attrs := append([]slog.Attr{
					slog.String("request_id", i.id),
					slog.String("method", boundedMethod(r.Method)),
					slog.String("route", route),
					slog.String("path", clip(r.URL.EscapedPath())),
					slog.Int("status", i.status),
					slog.Int64("bytes", rec.bytes),
					slog.Float64("ms", float64(took.Microseconds())/1000),
				}, i.notes...)
				level := slog.LevelInfo
				if i.status >= 500 {
					level = slog.LevelError
				}
				log.LogAttrs(r.Context(), level, "request", attrs...)
				if span != nil {
					span.SetName(r.Method + " " + route)
					span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("http.route", route),
						attribute.Int("http.response.status_code", i.status), attribute.String("tiffin.request_id", i.id))
					if i.status >= 500 {
						span.SetStatus(codes.Error, "")
					}
					span.End()
				}
			}()
			next.ServeHTTP(rec, r)
		})
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

// requestID keeps a caller's id of up to 200 visible ASCII bytes, else makes one.
func requestID(r *http.Request) string {
	if v := r.Header[HeaderRequestIDCanonical]; len(v) == 1 && ValidRequestID(v[0]) {
		return v[0]
	}
	return uuid.Must(uuid.NewV7()).String()
}

// HeaderRequestIDCanonical is HeaderRequestID as net/http spells it.
const HeaderRequestIDCanonical = "X-Request-Id"

// ValidRequestID tells whether a caller's request id may be kept.
func ValidRequestID(s string) bool {
	if s == "" || len(s) > 200 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// recorder notes the status and the size of the answer.
type recorder struct {
	http.ResponseWriter
	info  *requestInfo
	bytes int64
}

func (w *recorder) WriteHeader(status int) {
	if status >= 200 && w.info.status == 0 {
		w.info.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.info.status == 0 {
		w.info.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func recoverer(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				switch v := recover(); v {
				case nil:
				case http.ErrAbortHandler:
					panic(v)
				default:
					log.ErrorContext(r.Context(), "panic in a handler", "request_id", RequestID(r.Context()), "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
					if info(r.Context()).status == 0 {
						WriteProblem(w, r, fmt.Errorf("panic: %v", v))
					}
				}
			}()
			next.ServeHTTP(w, r)
		})
	}
}

func noSniff(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
