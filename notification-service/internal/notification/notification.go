// Package notification owns contacts and notifications: what a user is told
// about an account, an order and its money, and the delivery of it through a
// channel.
//
// The rules that hold whatever happens:
//
//   - one notification per (user, source event, kind), however often the event
//     is delivered;
//   - a notification and the request to deliver it are written in one
//     transaction, so neither exists without the other;
//   - a channel's failure delays that delivery, never the notification;
//   - a user's notifications have growing sequence numbers, and once a number
//     was seen no lower one appears.
package notification

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/event"
)

// Kind says what a notification is about.
type Kind string

// The kinds. Their names are part of the API and of the schema.
const (
	Welcome             Kind = "welcome"
	OrderPlaced         Kind = "order_placed"
	PaymentCompleted    Kind = "payment_completed"
	PaymentFailed       Kind = "payment_failed"
	OrderConfirmed      Kind = "order_confirmed"
	OrderPreparing      Kind = "order_preparing"
	OrderOutForDelivery Kind = "order_out_for_delivery"
	OrderDelivered      Kind = "order_delivered"
	OrderCancelled      Kind = "order_cancelled"
	PaymentRefunded     Kind = "payment_refunded"
)

// Notification is what a user sees.
type Notification struct {
	ID        uuid.UUID  `json:"id"`
	Seq       int64      `json:"seq"` // grows per user, may skip
	Kind      Kind       `json:"kind"`
	OrderID   *uuid.UUID `json:"order_id,omitempty"`
	Title     string     `json:"title"`
	Body      string     `json:"body"`
	CreatedAt time.Time  `json:"created_at"`
	ReadAt    *time.Time `json:"read_at,omitempty"`
}

// ErrUnusable says that an event can never become a notification: trying again
// would not help.
var ErrUnusable = errors.New("event cannot become a notification")

// Notice is what one event tells one user.
type Notice struct {
	UserID      uuid.UUID
	Kind        Kind
	OrderID     *uuid.UUID // nil when it is about no order
	Title, Body string
}

// about makes the notice of an order's customer.
func about(kind Kind, customer, order uuid.UUID, title, format string, args ...any) (Notice, error) {
	if customer == uuid.Nil || order == uuid.Nil {
		return Notice{}, fmt.Errorf("%w: customer_id or order_id is missing", ErrUnusable)
	}
	return Notice{UserID: customer, Kind: kind, OrderID: &order, Title: title, Body: fmt.Sprintf(format, args...)}, nil
}

// OfOrderCreated tells that an order awaits its payment.
func OfOrderCreated(p event.OrderCreated) (Notice, error) {
	return about(OrderPlaced, p.CustomerID, p.OrderID, "Order placed",
		"Your order %s at %s over %s was placed. We confirm it as soon as the payment is through.",
		short(p.OrderID), clip(p.RestaurantName), money(p.Total, p.Currency))
}

// OfPaymentCompleted tells that the money was charged.
func OfPaymentCompleted(p event.PaymentCompleted) (Notice, error) {
	return about(PaymentCompleted, p.CustomerID, p.OrderID, "Payment received",
		"We received %s for your order %s.", money(p.Amount, p.Currency), short(p.OrderID))
}

// OfPaymentFailed tells that the payment was declined and why.
func OfPaymentFailed(p event.PaymentFailed) (Notice, error) {
	why := clip(p.Message)
	if why == "" {
		why = strings.ReplaceAll(clip(p.Code), "_", " ")
	}
	return about(PaymentFailed, p.CustomerID, p.OrderID, "Payment declined",
		"The payment of %s for your order %s was declined: %s", money(p.Amount, p.Currency), short(p.OrderID), why)
}

// OfOrderStatusChanged tells how far an order is. A status that this version
// does not know is unusable, not ignored: its dead letter can be redriven after
// an upgrade.
func OfOrderStatusChanged(p event.OrderStatusChanged) (Notice, error) {
	order := short(p.OrderID)
	switch p.To {
	case "confirmed":
		return about(OrderConfirmed, p.CustomerID, p.OrderID, "Order confirmed", "Your order %s is confirmed.", order)
	case "preparing":
		return about(OrderPreparing, p.CustomerID, p.OrderID, "Order in the kitchen", "Your order %s is being prepared.", order)
	case "out_for_delivery":
		return about(OrderOutForDelivery, p.CustomerID, p.OrderID, "Order on its way", "Your order %s is out for delivery.", order)
	case "delivered":
		return about(OrderDelivered, p.CustomerID, p.OrderID, "Order delivered", "Your order %s was delivered. Enjoy your meal!", order)
	}
	return Notice{}, fmt.Errorf("%w: unknown order status %.40q", ErrUnusable, p.To)
}

// OfOrderCancelled tells that an order ended and why.
func OfOrderCancelled(p event.OrderCancelled) (Notice, error) {
	why := map[string]string{
		"payment_failed":  " because its payment was declined",
		"payment_timeout": " because its payment did not arrive in time",
		"customer":        " as you asked",
		"admin":           " by our staff",
	}[p.Reason] // a reason of a later version reads well without its why
	return about(OrderCancelled, p.CustomerID, p.OrderID, "Order cancelled",
		"Your order %s was cancelled%s. If it was charged, the money goes back to you.", short(p.OrderID), why)
}

// OfPaymentRefunded tells that the money went back.
func OfPaymentRefunded(p event.PaymentRefunded) (Notice, error) {
	return about(PaymentRefunded, p.CustomerID, p.OrderID, "Payment refunded",
		"We refunded %s for your order %s.", money(p.Amount, p.Currency), short(p.OrderID))
}

// OfUserRegistered welcomes a new user.
func OfUserRegistered(p event.UserRegistered) (Notice, error) {
	if p.UserID == uuid.Nil {
		return Notice{}, fmt.Errorf("%w: user_id is missing", ErrUnusable)
	}
	if !validAddress(p.Email) {
		return Notice{}, fmt.Errorf("%w: email is no address", ErrUnusable)
	}
	return Notice{UserID: p.UserID, Kind: Welcome, Title: "Welcome to Tiffin",
		Body: "Your account is ready. Find a restaurant and place your first order."}, nil
}

// validAddress accepts a bare address and nothing that carries more than one,
// a display name or a line break: what it accepts may stand in a mail's head.
func validAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Name == "" && a.Address == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// idOf derives the notification's id from what makes it unique, in the form of
// a UUIDv7 of the event's time (RFC 9562 §6.2, method 3: with a fraction of the
// millisecond), so that ids are in the order in which things happened. An event
// that comes again, even after the record of its first coming was pruned, finds
// the same id, and so does a receiver of mails, whose Message-ID is made of it.
func idOf(e event.Event, user uuid.UUID, kind Kind) uuid.UUID {
	h := sha256.New()
	h.Write(e.ID[:])
	h.Write(user[:])
	h.Write([]byte(kind))
	var id uuid.UUID
	copy(id[:], h.Sum(nil))
	var at int64 // an event without a time is from 1970
	if e.Time.After(time.Unix(0, 0)) {
		at = max(e.Time.UnixNano(), 0) // beyond the year 2262 it overflows
	}
	ms, fraction := uint64(at/1e6), uint16(at%1e6*4096/1e6)
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	id[6] = 0x70 | byte(fraction>>8)
	id[7] = byte(fraction)
	id[8] = 0x80 | id[8]&0x3f
	return id
}

// short is how a person may call an order: the end of its id, as the beginning
// is a time that orders share.
func short(id uuid.UUID) string { return strings.ToUpper(id.String()[28:]) }

// clip bounds text that comes from elsewhere and keeps it on one line.
func clip(s string) string {
	const limit = 200
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}

// exponents lists the currencies whose minor unit is not a hundredth (ISO 4217).
var exponents = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0,
	"UGX": 0, "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}

// money writes an amount of minor units, such as "EUR 19.00".
func money(amount int64, currency string) string {
	exp, odd := exponents[currency]
	if !odd {
		exp = 2
	}
	sign := ""
	if amount < 0 {
		sign = "-"
	}
	digits := strings.TrimPrefix(fmt.Sprintf("%0*d", exp+1, amount), "-")
	for len(digits) <= exp {
		digits = "0" + digits
	}
	whole, part := digits[:len(digits)-exp], digits[len(digits)-exp:]
	if part != "" {
		part = "." + part
	}
	return clip(currency) + " " + sign + whole + part
}
