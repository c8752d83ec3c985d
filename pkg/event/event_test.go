package event_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func id(n byte) uuid.UUID {
	return uuid.UUID{0x01, 0x90, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, n}
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)

// One full example of every payload.
func examples() []event.Payload {
	order := id(1)
	return []event.Payload{
		event.OrderCreated{
			OrderID: order, CustomerID: id(2), RestaurantID: id(3), RestaurantName: "Saffron & Smoke",
			Items: []event.OrderItem{{MenuItemID: id(4), Name: "Dal", UnitPrice: 950, Quantity: 2}},
			Total: 1900, Currency: "EUR", PaymentMethod: "pm_card_visa", CreatedAt: at,
		},
		event.PaymentCompleted{PaymentID: id(5), OrderID: order, CustomerID: id(2), Amount: 1900, Currency: "EUR", ProviderRef: "pi_1", CompletedAt: at},
		event.PaymentFailed{PaymentID: id(5), OrderID: order, CustomerID: id(2), Amount: 1900, Currency: "EUR", Code: "card_declined", Message: "Your card was declined.", FailedAt: at},
		event.OrderCancelled{OrderID: order, CustomerID: id(2), Reason: "payment_failed", Code: "card_declined", CancelledAt: at},
		event.OrderStatusChanged{OrderID: order, CustomerID: id(2), From: "pending", To: "confirmed", ChangedAt: at},
		event.PaymentRefundRequested{PaymentID: id(5), OrderID: order, RequestedAt: at},
		event.PaymentRefunded{PaymentID: id(5), OrderID: order, CustomerID: id(2), Amount: 1900, Currency: "EUR", ProviderRef: "pi_1", RefundedAt: at},
		event.UserRegistered{UserID: id(2), Email: "asha@example.com", Name: "Asha", RegisteredAt: at},
		event.NotificationDeliveryRequested{NotificationID: id(6), OrderID: &order, UserID: id(2), Channel: "log", RequestedAt: at},
	}
}

// A changed or removed field is a broken contract with every running consumer:
// this test fails for it. Only adding an optional field may change the files.
func TestPayloadShapesArePinned(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range examples() {
		seen[p.EventType()] = true
		got, err := json.MarshalIndent(p, "", "  ")
		require.NoError(t, err)
		path := filepath.Join("testdata", p.EventType()+".json")
		if *update {
			require.NoError(t, os.WriteFile(path, append(got, '\n'), 0o644))
		}
		want, err := os.ReadFile(path)
		require.NoError(t, err, "run go test ./event -update once for a new event type")
		require.Equal(t, string(want), string(got)+"\n", p.EventType())
	}
	for _, typ := range event.Types() {
		require.True(t, seen[typ], "no example of %s", typ)
	}
}

func TestEnvelopeSurvivesARecord(t *testing.T) {
	t.Parallel()
	e := event.New("order-service", examples()[0])
	e.Traceparent, e.Tracestate = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b"
	got, err := event.FromRecord(lookup(e.Headers()), []byte(e.Subject), e.Data)
	require.NoError(t, err)
	require.Equal(t, e, got)
	require.Equal(t, uuid.Version(7), e.ID.Version())
	require.Equal(t, id(1).String(), e.Subject, "the key is the order's id as text")

	p, err := event.Decode[event.OrderCreated](got)
	require.NoError(t, err)
	require.Equal(t, examples()[0], p)
}

func TestHeadersAreCloudEventsBinaryMode(t *testing.T) {
	t.Parallel()
	e := event.Event{ID: id(9), Type: "order.created", Source: "order-service", Subject: "k", Time: at}
	require.Equal(t, []event.Header{
		{Key: "ce_specversion", Value: "1.0"},
		{Key: "ce_id", Value: "01900000-0000-7000-8000-000000000009"},
		{Key: "ce_source", Value: "order-service"},
		{Key: "ce_type", Value: "order.created"},
		{Key: "ce_time", Value: "2026-01-02T03:04:05.6789Z"},
		{Key: "ce_subject", Value: "k"},
		{Key: "content-type", Value: "application/json"},
	}, e.Headers())
}

func TestABrokenEnvelopeIsAnError(t *testing.T) {
	t.Parallel()
	good := event.Event{ID: id(9), Type: "order.created", Source: "s", Subject: "k", Time: at}
	for name, change := range map[string]struct{ header, value string }{
		"no id":          {event.HeaderID, ""},
		"id no UUID":     {event.HeaderID, "42"},
		"id in braces":   {event.HeaderID, "{01900000-0000-7000-8000-000000000009}"},
		"no type":        {event.HeaderType, ""},
		"other version":  {event.HeaderSpecVersion, "0.3"},
		"no spec at all": {event.HeaderSpecVersion, ""},
	} {
		h := lookup(good.Headers())
		_, err := event.FromRecord(func(n string) string {
			if n == change.header {
				return change.value
			}
			return h(n)
		}, []byte("k"), nil)
		require.Error(t, err, name)
		require.Equal(t, change.header == event.HeaderID, errors.Is(err, event.ErrNoID), name)
	}
}

func TestDecodeIgnoresFieldsItDoesNotKnow(t *testing.T) {
	t.Parallel()
	p, err := event.Decode[event.PaymentRefundRequested](event.Event{Data: []byte(`{"order_id":"` + id(1).String() + `","new":{"a":1}}`)})
	require.NoError(t, err)
	require.Equal(t, id(1), p.OrderID)
	_, err = event.Decode[event.PaymentRefundRequested](event.Event{Data: []byte(`{"order_id":7}`)})
	require.Error(t, err)
}

func lookup(headers []event.Header) func(string) string {
	return func(name string) string {
		for _, h := range headers {
			if h.Key == name {
				return h.Value
			}
		}
		return ""
	}
}
