package notification

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

var (
	customer = uuid.MustParse("01900000-0000-7000-8000-0000000000c1")
	order    = uuid.MustParse("01900000-0000-7000-8000-0000deadbeef")
)

func TestEveryEventBecomesItsNotice(t *testing.T) {
	t.Parallel()
	changed := func(to string) event.OrderStatusChanged {
		return event.OrderStatusChanged{OrderID: order, CustomerID: customer, From: "pending", To: to}
	}
	cancelled := func(reason string) event.OrderCancelled {
		return event.OrderCancelled{OrderID: order, CustomerID: customer, Reason: reason}
	}
	for name, tt := range map[string]struct {
		notice      func() (Notice, error)
		kind        Kind
		title, body string
	}{
		"created": {
			of(OfOrderCreated, event.OrderCreated{OrderID: order, CustomerID: customer, RestaurantName: "Saffron & Smoke", Total: 1900, Currency: "EUR"}),
			OrderPlaced, "Order placed", "Your order DEADBEEF at Saffron & Smoke over EUR 19.00 was placed. We confirm it as soon as the payment is through.",
		},
		"paid": {
			of(OfPaymentCompleted, event.PaymentCompleted{OrderID: order, CustomerID: customer, Amount: 1900, Currency: "EUR"}),
			PaymentCompleted, "Payment received", "We received EUR 19.00 for your order DEADBEEF.",
		},
		"declined with a message": {
			of(OfPaymentFailed, event.PaymentFailed{OrderID: order, CustomerID: customer, Amount: 5, Currency: "EUR", Code: "card_declined", Message: "Your card was declined."}),
			PaymentFailed, "Payment declined", "The payment of EUR 0.05 for your order DEADBEEF was declined: Your card was declined.",
		},
		"declined without a message": {
			of(OfPaymentFailed, event.PaymentFailed{OrderID: order, CustomerID: customer, Amount: 500, Currency: "JPY", Code: "insufficient_funds"}),
			PaymentFailed, "Payment declined", "The payment of JPY 500 for your order DEADBEEF was declined: insufficient funds",
		},
		"confirmed":  {of(OfOrderStatusChanged, changed("confirmed")), OrderConfirmed, "Order confirmed", "Your order DEADBEEF is confirmed."},
		"preparing":  {of(OfOrderStatusChanged, changed("preparing")), OrderPreparing, "Order in the kitchen", "Your order DEADBEEF is being prepared."},
		"on its way": {of(OfOrderStatusChanged, changed("out_for_delivery")), OrderOutForDelivery, "Order on its way", "Your order DEADBEEF is out for delivery."},
		"delivered":  {of(OfOrderStatusChanged, changed("delivered")), OrderDelivered, "Order delivered", "Your order DEADBEEF was delivered. Enjoy your meal!"},
		"cancelled for payment": {
			of(OfOrderCancelled, cancelled("payment_failed")),
			OrderCancelled, "Order cancelled", "Your order DEADBEEF was cancelled because its payment was declined. If it was charged, the money goes back to you.",
		},
		"cancelled for time": {
			of(OfOrderCancelled, cancelled("payment_timeout")),
			OrderCancelled, "Order cancelled", "Your order DEADBEEF was cancelled because its payment did not arrive in time. If it was charged, the money goes back to you.",
		},
		"cancelled by the customer": {
			of(OfOrderCancelled, cancelled("customer")),
			OrderCancelled, "Order cancelled", "Your order DEADBEEF was cancelled as you asked. If it was charged, the money goes back to you.",
		},
		"cancelled by staff": {
			of(OfOrderCancelled, cancelled("admin")),
			OrderCancelled, "Order cancelled", "Your order DEADBEEF was cancelled by our staff. If it was charged, the money goes back to you.",
		},
		"cancelled for a reason of a later version": {
			of(OfOrderCancelled, cancelled("restaurant_closed")),
			OrderCancelled, "Order cancelled", "Your order DEADBEEF was cancelled. If it was charged, the money goes back to you.",
		},
		"refunded": {
			of(OfPaymentRefunded, event.PaymentRefunded{OrderID: order, CustomerID: customer, Amount: 1900, Currency: "EUR"}),
			PaymentRefunded, "Payment refunded", "We refunded EUR 19.00 for your order DEADBEEF.",
		},
	} {
		got, err := tt.notice()
		require.NoError(t, err, name)
		require.Equal(t, Notice{UserID: customer, Kind: tt.kind, OrderID: &order, Title: tt.title, Body: tt.body}, got, name)
	}
	got, err := OfUserRegistered(event.UserRegistered{UserID: customer, Email: "asha@example.com", Name: "Asha"})
	require.NoError(t, err)
	require.Equal(t, Notice{UserID: customer, Kind: Welcome, Title: "Welcome to Tiffin",
		Body: "Your account is ready. Find a restaurant and place your first order."}, got)
}

func of[P any](f func(P) (Notice, error), p P) func() (Notice, error) {
	return func() (Notice, error) { return f(p) }
}

func TestAnEventThatCannotBecomeANotificationSaysSo(t *testing.T) {
	t.Parallel()
	for name, notice := range map[string]func() (Notice, error){
		"no customer":    of(OfOrderCreated, event.OrderCreated{OrderID: order}),
		"no order":       of(OfPaymentCompleted, event.PaymentCompleted{CustomerID: customer}),
		"unknown status": of(OfOrderStatusChanged, event.OrderStatusChanged{OrderID: order, CustomerID: customer, To: "lost"}),
		"no user":        of(OfUserRegistered, event.UserRegistered{Email: "a@b.c"}),
		"no address":     of(OfUserRegistered, event.UserRegistered{UserID: customer}),
		"two addresses":  of(OfUserRegistered, event.UserRegistered{UserID: customer, Email: "a@b.c, d@e.f"}),
	} {
		_, err := notice()
		require.ErrorIs(t, err, ErrUnusable, name)
	}
}

func TestOnlyBareAddressesAreAddresses(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"asha@example.com", "a.b+c@sub.example.org", "grüße@example.com", "o'hara@example.com"} {
		require.True(t, validAddress(good), good)
	}
	for _, bad := range []string{
		"", "asha", "asha@", "@example.com", "Asha <asha@example.com>", "<asha@example.com>", "a@b.c,d@e.f", "a@b.c d@e.f",
		"asha@example.com\r\nBcc: eve@example.com", "asha@example.com\n", "asha\r\n@example.com", "asha@exa\x00mple.com", " asha@example.com",
		"\"a\r\nBcc: eve@example.com\"@example.com", "asha@example.com (comment)",
	} {
		require.False(t, validAddress(bad), "%q", bad)
	}
}

func TestMoneyKnowsMinorUnits(t *testing.T) {
	t.Parallel()
	for want, in := range map[string]struct {
		amount   int64
		currency string
	}{
		"EUR 19.00":                 {1900, "EUR"},
		"EUR 0.05":                  {5, "EUR"},
		"EUR 0.00":                  {0, "EUR"},
		"EUR -0.05":                 {-5, "EUR"},
		"EUR -12.34":                {-1234, "EUR"},
		"JPY 1900":                  {1900, "JPY"},
		"JPY 0":                     {0, "JPY"},
		"KWD 1.900":                 {1900, "KWD"},
		"KWD 0.001":                 {1, "KWD"},
		"EUR 92233720368547758.07":  {1<<63 - 1, "EUR"},
		"EUR -92233720368547758.08": {-1 << 63, "EUR"},
	} {
		require.Equal(t, want, money(in.amount, in.currency))
	}
}

func TestForeignTextIsBoundedAndOnOneLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a b", clip(" a\r\n b\t"))
	long := clip(strings.Repeat("ü", 300))
	require.Equal(t, strings.Repeat("ü", 199)+"…", long)
}

func TestTheSameSourceGivesTheSameID(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := event.Event{ID: uuid.MustParse("01900000-0000-7000-8000-000000000001"), Time: at}
	id := idOf(e, customer, OrderPlaced)
	require.Equal(t, id, idOf(e, customer, OrderPlaced))
	require.Equal(t, uuid.Version(7), id.Version())
	require.Equal(t, uuid.RFC4122, id.Variant())
	sec, nsec := id.Time().UnixTime()
	require.True(t, time.Unix(sec, nsec).Equal(at), "it carries the event's time")

	other := e
	other.ID[15] = 2
	seen := map[uuid.UUID]bool{id: true}
	for _, further := range []uuid.UUID{idOf(other, customer, OrderPlaced), idOf(e, order, OrderPlaced), idOf(e, customer, OrderCancelled)} {
		require.False(t, seen[further])
		seen[further] = true
	}
	later := other
	later.Time = at.Add(time.Microsecond)
	require.Greater(t, idOf(later, customer, OrderConfirmed).String(), id.String(), "in the order of what happened")

	for name, bad := range map[string]time.Time{"none": {}, "before the epoch": time.Unix(-1, 0), "far off": time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		odd := idOf(event.Event{ID: e.ID, Time: bad}, customer, OrderPlaced)
		require.Equal(t, uuid.Version(7), odd.Version(), name)
		require.Equal(t, uuid.RFC4122, odd.Variant(), name)
	}
}
