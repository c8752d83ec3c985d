package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

const (
	// MaxEventBytes bounds an event's key, value and headers together. Below
	// Kafka's default of 1 MiB per batch by what a retry adds in headers.
	MaxEventBytes = 960 << 10
	// MaxRecordBytes bounds the same of a record added as it is: any record
	// that a consumer can have read from a topic with Kafka's default limit,
	// plus the headers of a retry. Topics that get such records need a
	// max.message.bytes, and the producer a ProducerBatchMaxBytes, of at least
	// MaxRecordBytes plus 4 KiB.
	MaxRecordBytes = 1<<20 + 64<<10

	// singleKey and batchKey are the doorbell's keys that wake the relay: after a
	// transaction, and after a Session's.
	singleKey = "msg.outbox"
	batchKey  = "msg.outbox.batch"
)

// Record is a row of the outbox: a Kafka record to be.
type Record struct {
	EventID uuid.UUID
	Topic   string
	Key     []byte // nil: a record without key
	Value   []byte // nil: a record without value
	Headers []kgo.RecordHeader

	encoded []byte
}

// Emit adds events to the transaction. The topic is the event's type, the key
// its subject. When ctx carries a span and the event no trace context, the
// event gets that of the span.
//
// An event that cannot be published (too large, no id, no subject, no legal
// topic) fails the transaction: its error comes from COMMIT.
func (t *Tx) Emit(ctx context.Context, events ...event.Event) {
	var span trace.SpanContext
	if len(events) > 0 {
		span = trace.SpanContextFromContext(ctx)
	}
	for _, e := range events {
		if e.Traceparent == "" && span.IsValid() {
			e.Traceparent = fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags())
			e.Tracestate = span.TraceState().String()
		}
		r := Record{EventID: e.ID, Topic: e.Type, Key: []byte(e.Subject), Value: e.Data, encoded: encodeEvent(e)}
		if e.Subject == "" {
			t.refuse(r, errors.New("an event needs a subject: it is the key"))
			continue
		}
		t.add(r, MaxEventBytes)
	}
}

// AddRecord adds a record as it is: retries, dead letters and redrives, which
// keep the bytes and headers they came with. Events go through Emit.
func (t *Tx) AddRecord(r Record) {
	r.encoded = EncodeHeaders(r.Headers)
	t.add(r, MaxRecordBytes)
}

func (t *Tx) add(r Record, limit int) {
	switch size := len(r.Key) + len(r.Value) + len(r.encoded); {
	case r.EventID == uuid.Nil:
		t.refuse(r, errors.New("no event id"))
	case !legalTopic(r.Topic):
		t.refuse(r, errors.New("no legal topic name"))
	case size > limit:
		t.refuse(r, fmt.Errorf("%d bytes with its headers, more than %d", size, limit))
	default:
		t.records = append(t.records, r)
	}
}

// refuse fails the transaction, in the name of the current owner.
func (t *Tx) refuse(r Record, err error) {
	if t.err == nil {
		t.err = &RecordError{Owner: t.owner, EventID: r.EventID, Topic: r.Topic, Err: err}
	}
}

// RecordError says which event or record cannot be published, and whose it was.
type RecordError struct {
	Owner   int
	EventID uuid.UUID
	Topic   string
	Err     error
}

// Error names the record and what is wrong with it.
func (e *RecordError) Error() string {
	return fmt.Sprintf("outbox record %s for topic %.64q: %v", e.EventID, e.Topic, e.Err)
}

// Unwrap returns what is wrong.
func (e *RecordError) Unwrap() error { return e.Err }

func legalTopic(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > 249 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

const (
	insertOne  = `insert into msg.outbox (event_id, topic, key, value, headers) values ($1, $2, $3, $4, $5)`
	insertMany = `insert into msg.outbox (event_id, topic, key, value, headers)
		select * from unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])`
	// rowChunk bounds one statement's parameters in memory, here and there.
	rowChunk = 500
)

// inserts returns the statements that write the records, in their order.
func (t *Tx) inserts() []*pgx.QueuedQuery {
	var list []*pgx.QueuedQuery
	for rest := t.records; len(rest) > 0; {
		if len(rest) == 1 {
			r := rest[0]
			return append(list, &pgx.QueuedQuery{SQL: insertOne, Arguments: []any{[16]byte(r.EventID), r.Topic, r.Key, r.Value, r.encoded}})
		}
		chunk := rest[:min(rowChunk, len(rest))]
		rest = rest[len(chunk):]
		ids := make([][16]byte, len(chunk))
		topics := make([]string, len(chunk))
		bytes := make([][]byte, 3*len(chunk))
		keys, values, headers := bytes[:len(chunk)], bytes[len(chunk):2*len(chunk)], bytes[2*len(chunk):]
		for i, r := range chunk {
			ids[i], topics[i], keys[i], values[i], headers[i] = r.EventID, r.Topic, r.Key, r.Value, r.encoded
		}
		list = append(list, &pgx.QueuedQuery{SQL: insertMany, Arguments: []any{ids, topics, keys, values, headers}})
	}
	return list
}
