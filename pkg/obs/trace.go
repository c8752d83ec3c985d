package obs

import (
	"context"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// startTraces turns tracing on when an endpoint is set. OpenTelemetry's global
// provider is the one global of the project: libraries look there.
func startTraces(ctx context.Context, cfg Config) (stop func(context.Context) error, err error) {
	if cfg.TraceEndpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	// The OTLP specification appends the path to this variable's value; the
	// exporter reads the other OTEL_EXPORTER_OTLP_* variables itself.
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(cfg.TraceEndpoint+"/v1/traces"))
	if err != nil {
		return nil, fmt.Errorf("open OTLP exporter: %w", err)
	}
	tp := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.TraceRatio))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", cfg.Service))),
	)
	otel.SetTracerProvider(tp)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return tp.Shutdown, nil
}

// Tracing tells whether spans go anywhere; code on hot paths asks once, when it
// is constructed, and then makes none.
func Tracing() bool {
	_, ok := otel.GetTracerProvider().(*sdktrace.TracerProvider)
	return ok
}

// traceHandler adds the trace id of the record's context to log lines.
type traceHandler struct{ slog.Handler }

func (h traceHandler) Handle(ctx context.Context, rec slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		rec.AddAttrs(slog.String("trace_id", sc.TraceID().String()))
	}
	return h.Handler.Handle(ctx, rec)
}

func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
