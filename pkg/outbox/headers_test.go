package outbox

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

func TestHeadersSurviveTheirColumn(t *testing.T) {
	t.Parallel()
	for _, headers := range [][]kgo.RecordHeader{
		{},
		{{Key: "ce_id", Value: []byte("x")}, {Key: "ce_id", Value: []byte("twice")}},
		{{Key: "", Value: nil}, {Key: "x", Value: []byte{}}, {Key: "\x00\xff", Value: []byte{0, 255}}},
		{{Key: "big", Value: bytes.Repeat([]byte("v"), 70_000)}, {Key: string(bytes.Repeat([]byte("k"), 300))}},
	} {
		got, err := DecodeHeaders(EncodeHeaders(headers))
		require.NoError(t, err)
		require.Equal(t, headers, got)
	}
}

func TestAnEventsHeadersAreCompact(t *testing.T) {
	t.Parallel()
	e := event.Event{ID: uuid.Must(uuid.NewV7()), Type: "order.created", Source: "order-service", Subject: uuid.NewString(), Time: time.Now()}
	b := encodeEvent(e)
	headers, err := DecodeHeaders(b)
	require.NoError(t, err)
	require.Len(t, headers, len(e.Headers()))
	for i, h := range e.Headers() {
		require.Equal(t, h.Key, headers[i].Key)
		require.Equal(t, h.Value, string(headers[i].Value))
	}
	require.Less(t, len(b), 175, "names cost a byte each")
}

// Rows that are stored refer to places in the table: it only grows at its end.
func TestHeaderNamesKeepTheirPlaces(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{
		"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type", "traceparent", "tracestate",
		"x-retry-count", "x-retry-max", "x-retry-due", "x-first-failed-at", "x-orig-topic", "x-orig-partition",
		"x-orig-offset", "x-orig-timestamp", "x-consumer-group", "x-error-class", "x-error-type", "x-error-message",
		"x-dlq-id", "x-dlq-at", "x-redrive-count",
	}, wellKnown[:])
}

func FuzzDecodeHeaders(f *testing.F) {
	f.Add(EncodeHeaders([]kgo.RecordHeader{{Key: "ce_id", Value: []byte("x")}, {Key: "y"}}))
	f.Add([]byte{0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		headers, err := DecodeHeaders(b)
		if err != nil {
			return
		}
		again, err := DecodeHeaders(EncodeHeaders(headers))
		require.NoError(t, err)
		require.Equal(t, headers, again)
	})
}
