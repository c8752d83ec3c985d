// Package event holds what travels between services: the envelope (CloudEvents
// 1.0, Kafka protocol binding, binary content mode), the payload types that
// both sides need, and the names of topics.
//
// Shapes only grow: a field is never renamed, retyped or removed, and readers
// ignore fields they do not know. Golden files in testdata pin every shape.
package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Event is one fact about one aggregate.
type Event struct {
	ID      uuid.UUID // UUIDv7; what consumers deduplicate by
	Type    string    // also the topic
	Source  string    // the service that wrote it
	Subject string    // the aggregate's id, also the Kafka key
	Time    time.Time
	Data    []byte // flat JSON

	// W3C trace context of the transaction that emitted the event, if traced.
	Traceparent, Tracestate string
}

// Payload is the data of one event type. The payload types of this package
// implement it; they hold only strings, numbers, times and ids, so that
// encoding them cannot fail.
type Payload interface {
	EventType() string   // the topic
	EventKey() uuid.UUID // the aggregate that the fact is about; orders records
}

// New makes an event of now with a new UUIDv7.
func New(source string, p Payload) Event {
	data, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("event: payload %T does not encode: %v", p, err)) // a defect of the type, found by its golden test
	}
	return Event{
		ID:      uuid.Must(uuid.NewV7()),
		Type:    p.EventType(),
		Source:  source,
		Subject: p.EventKey().String(),
		Time:    time.Now().UTC(),
		Data:    data,
	}
}

// Decode reads the payload of e. Unknown fields are ignored, so that producers
// can add some first.
func Decode[P any](e Event) (P, error) {
	var p P
	if err := json.Unmarshal(e.Data, &p); err != nil {
		return p, fmt.Errorf("decode %s %s: %w", e.Type, e.ID, err)
	}
	return p, nil
}

// Names of the record headers (CloudEvents Kafka protocol binding §3.2, W3C
// Trace Context).
const (
	HeaderSpecVersion = "ce_specversion"
	HeaderID          = "ce_id"
	HeaderSource      = "ce_source"
	HeaderType        = "ce_type"
	HeaderTime        = "ce_time"
	HeaderSubject     = "ce_subject"
	HeaderContentType = "content-type"
	HeaderTraceparent = "traceparent"
	HeaderTracestate  = "tracestate"
)

// Header is one record header; values are ASCII text.
type Header struct{ Key, Value string }

// Headers returns the record headers of e, in a fixed order.
func (e Event) Headers() []Header {
	h := append(make([]Header, 0, 9),
		Header{HeaderSpecVersion, "1.0"},
		Header{HeaderID, e.ID.String()},
		Header{HeaderSource, e.Source},
		Header{HeaderType, e.Type},
		Header{HeaderTime, e.Time.UTC().Format(time.RFC3339Nano)},
		Header{HeaderSubject, e.Subject},
		Header{HeaderContentType, "application/json"},
	)
	if e.Traceparent != "" {
		h = append(h, Header{HeaderTraceparent, e.Traceparent})
		if e.Tracestate != "" {
			h = append(h, Header{HeaderTracestate, e.Tracestate})
		}
	}
	return h
}

// ErrNoID says that a record has no usable ce_id.
var ErrNoID = errors.New("ce_id is missing or no UUID")

// FromRecord reads an event from a record's headers, key and value. The error
// says what is wrong with the envelope; with ErrNoID the rest of the event is
// still filled in as far as it could be read.
func FromRecord(header func(name string) string, key, value []byte) (Event, error) {
	e := Event{
		Type:        header(HeaderType),
		Source:      header(HeaderSource),
		Subject:     header(HeaderSubject),
		Data:        value,
		Traceparent: header(HeaderTraceparent),
		Tracestate:  header(HeaderTracestate),
	}
	if e.Subject == "" {
		e.Subject = string(key)
	}
	if t, err := time.Parse(time.RFC3339Nano, header(HeaderTime)); err == nil {
		e.Time = t.UTC()
	}
	raw := header(HeaderID)
	id, err := uuid.Parse(raw)
	if err != nil || len(raw) != 36 {
		return e, ErrNoID
	}
	e.ID = id
	if v := header(HeaderSpecVersion); v != "1.0" {
		return e, fmt.Errorf("ce_specversion %.16q is not 1.0", v)
	}
	if e.Type == "" {
		return e, errors.New("ce_type is missing")
	}
	return e, nil
}
