package outbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

// batch is one page of rows on its way to Kafka.
type batch struct {
	after cursor // what to store once all of it is acknowledged
	rows  []outboxRow
	errs  []error // by row; final once left is 0
	dead  []deadRow
	alone bool // nothing else is in flight
	full  bool // more is to be read
	sent  time.Time

	left   atomic.Int64 // outcomes still to come
	failed atomic.Bool  // a record failed
}

type deadRow struct {
	outboxRow
	reason string
}

func (b *batch) succeeded() bool { return b.left.Load() == 0 && !b.failed.Load() }
func (b *batch) failing() bool   { return b.failed.Load() }

// send hands the rows to the client, in order, without waiting for anything.
func (p *publisher) send(rows []outboxRow, after cursor, alone bool) *batch {
	b := &batch{after: after, rows: rows, errs: make([]error, len(rows)), alone: alone, sent: time.Now()}
	records := make([]kgo.Record, len(rows))
	// One more than there are, so that the batch is not done while it is sent.
	b.left.Store(int64(len(rows)) + 1)
	for i, row := range rows {
		_, known := p.acked[row.seq]
		delete(p.acked, row.seq)
		headers, err := DecodeHeaders(row.headers)
		if err == nil && !legalTopic(row.topic) {
			err = kerr.InvalidTopicException
		}
		if err != nil {
			// Nothing about it can change: no need to ask Kafka.
			b.dead = append(b.dead, deadRow{row, err.Error()})
			p.outcome(b, i, nil)
			continue
		}
		if known {
			p.outcome(b, i, nil)
			continue
		}
		rec := &records[i]
		*rec = kgo.Record{Topic: row.topic, Key: row.key, Value: row.value, Headers: headers}
		span := p.startSpan(rec)
		p.cl.TryProduce(p.producing, rec, func(rec *kgo.Record, err error) {
			if span != nil {
				endSpan(span, rec, err)
			}
			p.outcome(b, i, err)
		})
	}
	p.settleOne(b)
	return b
}

// outcome notes what became of a row. It runs on the client's goroutines.
func (p *publisher) outcome(b *batch, i int, err error) {
	if err != nil {
		b.errs[i] = err
		if b.failed.CompareAndSwap(false, true) {
			p.notify()
		}
	}
	p.settleOne(b)
}

func (p *publisher) settleOne(b *batch) {
	if b.left.Add(-1) == 0 {
		p.notify()
	}
}

func (p *publisher) notify() {
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// unsendable reports whether Kafka can never accept a record, as against not
// now. A topic that does not exist or may not be written to is "not now": both
// can be put right, and skipping its records would lose them.
func unsendable(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) ||
		errors.Is(err, kerr.InvalidTopicException) || errors.Is(err, kerr.InvalidRecord)
}

// startSpan begins the span of sending a record, below the span that emitted
// it, when that is sampled. It returns nil otherwise.
func (p *publisher) startSpan(rec *kgo.Record) trace.Span {
	var carrier propagation.MapCarrier
	for _, h := range rec.Headers {
		if h.Key == event.HeaderTraceparent || h.Key == event.HeaderTracestate {
			if carrier == nil {
				carrier = propagation.MapCarrier{}
			}
			carrier[h.Key] = string(h.Value)
		}
	}
	if carrier == nil {
		return nil
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return nil
	}
	_, span := p.tracer.Start(ctx, "send "+rec.Topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.operation.type", "send"),
		attribute.String("messaging.operation.name", "send"),
		attribute.String("messaging.destination.name", rec.Topic),
		attribute.String("messaging.kafka.message.key", string(rec.Key)),
	))
	return span
}

func endSpan(span trace.Span, rec *kgo.Record, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	} else {
		span.SetAttributes(
			attribute.Int("messaging.destination.partition.id", int(rec.Partition)),
			attribute.Int64("messaging.kafka.offset", rec.Offset),
		)
	}
	span.End()
}
