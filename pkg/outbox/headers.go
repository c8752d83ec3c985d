package outbox

import (
	"encoding/binary"
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

// The headers column holds a record's final headers, one after the other:
//
//	name   one byte n: n > 0 stands for wellKnown[n-1], 0 says that a uvarint
//	       length and the name itself follow
//	value  uvarint of its length plus one, and its bytes; 0 stands for a null value
//
// wellKnown is append-only: stored rows refer to places in it.
var wellKnown = [...]string{
	event.HeaderSpecVersion, event.HeaderID, event.HeaderSource, event.HeaderType, event.HeaderTime,
	event.HeaderSubject, event.HeaderContentType, event.HeaderTraceparent, event.HeaderTracestate,
	"x-retry-count", "x-retry-max", "x-retry-due", "x-first-failed-at", "x-orig-topic", "x-orig-partition",
	"x-orig-offset", "x-orig-timestamp", "x-consumer-group", "x-error-class", "x-error-type", "x-error-message",
	"x-dlq-id", "x-dlq-at", "x-redrive-count",
}

var wellKnownPlace = func() map[string]byte {
	m := make(map[string]byte, len(wellKnown))
	for i, name := range wellKnown {
		m[name] = byte(i + 1)
	}
	return m
}()

// EncodeHeaders returns headers as the headers column holds them.
func EncodeHeaders(headers []kgo.RecordHeader) []byte {
	size := 0
	for _, h := range headers {
		size += len(h.Key) + len(h.Value) + 6
	}
	b := make([]byte, 0, size)
	for _, h := range headers {
		b = appendName(b, h.Key)
		if h.Value == nil {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(h.Value))+1)
		b = append(b, h.Value...)
	}
	return b
}

func encodeEvent(e event.Event) []byte {
	headers := e.Headers()
	size := 0
	for _, h := range headers {
		size += len(h.Value) + 3
	}
	b := make([]byte, 0, size)
	for _, h := range headers {
		b = appendName(b, h.Key)
		b = binary.AppendUvarint(b, uint64(len(h.Value))+1)
		b = append(b, h.Value...)
	}
	return b
}

func appendName(b []byte, name string) []byte {
	if n, ok := wellKnownPlace[name]; ok {
		return append(b, n)
	}
	b = append(b, 0)
	b = binary.AppendUvarint(b, uint64(len(name)))
	return append(b, name...)
}

var errHeaders = errors.New("headers column is damaged")

// DecodeHeaders reads the headers column. Values share memory with b.
func DecodeHeaders(b []byte) ([]kgo.RecordHeader, error) {
	headers := make([]kgo.RecordHeader, 0, 10)
	for len(b) > 0 {
		var h kgo.RecordHeader
		place := int(b[0])
		b = b[1:]
		switch {
		case place > len(wellKnown):
			return nil, errHeaders
		case place > 0:
			h.Key = wellKnown[place-1]
		default:
			n, used := binary.Uvarint(b)
			if used <= 0 || n > uint64(len(b)-used) {
				return nil, errHeaders
			}
			h.Key = string(b[used : used+int(n)])
			b = b[used+int(n):]
		}
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used)+1 {
			return nil, errHeaders
		}
		b = b[used:]
		if n > 0 {
			h.Value = b[: n-1 : n-1]
			b = b[n-1:]
		}
		headers = append(headers, h)
	}
	return headers, nil
}
