package edge

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// It is not parallel: OpenTelemetry's provider is global.
func TestATraceGoesThroughTheGateway(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	otel.SetTextMapPropagator(propagation.TraceContext{})
	defer otel.SetTracerProvider(noop.NewTracerProvider())
	r := setup(t, options{})
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	r.get("/restaurants/"+someID, "", "traceparent", parent, "tracestate", "a=b")
	require.Eventually(t, func() bool { return len(spans.GetSpans()) == 1 }, patience, tick)
	span := spans.GetSpans()[0]
	require.Equal(t, "GET /restaurants/{id}", span.Name)
	require.Equal(t, trace.SpanKindServer, span.SpanKind)
	require.Equal(t, "4bf92f3577b34da6a3ce929d0e0e4736", span.SpanContext.TraceID().String())
	require.Equal(t, "00f067aa0ba902b7", span.Parent.SpanID().String())
	h := r.requests()[0].Header
	require.Equal(t, []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-" + span.SpanContext.SpanID().String() + "-01"}, h.Values("Traceparent"),
		"the service's part hangs below the gateway's")
	require.Equal(t, []string{"a=b"}, h.Values("Tracestate"))
	require.Contains(t, r.logs.String(), `"request_id"`)

	r.get("/restaurants", "")
	require.Eventually(t, func() bool { return len(spans.GetSpans()) == 2 }, patience, tick)
	require.False(t, spans.GetSpans()[1].Parent.IsValid(), "a request without a trace begins one")
	require.Contains(t, r.requests()[1].Header.Get("Traceparent"), spans.GetSpans()[1].SpanContext.TraceID().String())
}
