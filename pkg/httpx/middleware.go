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
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"

	"github.com/tiffin-platform/tiffin/pkg/errs"
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
	rec := NewRecorder(log, reg)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start := time.Now()
			i := &requestInfo{id: requestID(r)}
			ctx := rec.Begin(context.WithValue(r.Context(), infoKey{}, i), r.Method, propagation.HeaderCarrier(r.Header))
			w.Header().Set(HeaderRequestID, i.id)
			out := &recorder{ResponseWriter: w, info: i}
			r = r.WithContext(ctx)
			defer func() {
				route := ""
				if p := chi.RouteContext(r.Context()).RoutePattern(); !strings.HasSuffix(p, "/*") {
					route = p
				}
				if i.status == 0 {
					i.status = http.StatusOK
				}
				rec.End(ctx, Exchange{
					ID: i.id, Method: r.Method, Route: route, Path: r.URL.EscapedPath(),
					Status: i.status, Bytes: out.bytes, Took: time.Since(start), Notes: i.notes,
				})
			}()
			next.ServeHTTP(out, r)
		})
	}
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
