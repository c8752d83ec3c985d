package kafka

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

func nothing(error) {}

// span continues the trace of the transaction that emitted the item's event.
// Without a trace there it costs nothing; without tracing here the context is
// still handed on, so that what the handler emits belongs to the same trace.
func (c *Consumer) span(ctx context.Context, it *item, operation string) (context.Context, func(error)) {
	if it.event.Traceparent == "" {
		return ctx, nothing
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		event.HeaderTraceparent: it.event.Traceparent, event.HeaderTracestate: it.event.Tracestate,
	})
	if c.tracer == nil {
		return ctx, nothing
	}
	ctx, span := c.tracer.Start(ctx, operation+" "+it.sub.Topic, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.operation.name", operation),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", it.origin.topic),
		attribute.String("messaging.consumer.group.name", c.cc.Group),
		attribute.String("messaging.message.id", it.event.ID.String()),
		attribute.Int("messaging.kafka.offset", int(it.origin.offset)),
		attribute.Int("tiffin.attempt", it.level()+1),
	))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, ascii(err.Error(), maxMessage))
		}
		span.End()
	}
}
