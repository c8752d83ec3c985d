// Package order is the domain of the order service: restaurants and their
// menus, orders and their timelines. It owns the rules, the transactions and
// the SQL; nothing else in the service knows Postgres.
package order

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// Status is where an order is in its life.
type Status string

// The life of an order. Delivered and Cancelled are ends.
const (
	Pending        Status = "pending" // awaits its payment
	Confirmed      Status = "confirmed"
	Preparing      Status = "preparing"
	OutForDelivery Status = "out_for_delivery"
	Delivered      Status = "delivered"
	Cancelled      Status = "cancelled"
)

// Cause is who or what moves an order on. Where it cancels, it is also the
// reason that clients and other services see.
type Cause string

// The causes.
const (
	PaymentCompleted Cause = "payment_completed"
	PaymentFailed    Cause = "payment_failed"
	PaymentTimeout   Cause = "payment_timeout"
	ByCustomer       Cause = "customer"
	ByAdmin          Cause = "admin"
)

// transitions is the whole life cycle: from, to, and what may cause it. Only a
// payment confirms, so that confirmed always means paid; food on the stove
// cannot be cancelled.
var transitions = map[Status]map[Status][]Cause{
	Pending: {
		Confirmed: {PaymentCompleted},
		Cancelled: {PaymentFailed, PaymentTimeout, ByCustomer, ByAdmin},
	},
	Confirmed: {
		Preparing: {ByAdmin},
		Cancelled: {ByCustomer, ByAdmin},
	},
	Preparing:      {OutForDelivery: {ByAdmin}},
	OutForDelivery: {Delivered: {ByAdmin}},
	Delivered:      {},
	Cancelled:      {},
}

// Valid tells whether s is a status.
func (s Status) Valid() bool {
	_, ok := transitions[s]
	return ok
}

// Statuses lists every status, in the order of an order's life.
func Statuses() []Status {
	return []Status{Pending, Confirmed, Preparing, OutForDelivery, Delivered, Cancelled}
}

func allowed(from, to Status, cause Cause) bool {
	return slices.Contains(transitions[from][to], cause)
}

// Bounds of an order.
const (
	maxItems    = 50
	maxQuantity = 99
	// MaxAmount is the largest price and the largest total in minor units: what
	// a JSON reader with floating point numbers still reads exactly (2^53 - 1).
	MaxAmount int64 = 1<<53 - 1
)

// Order is what a customer ordered, at the prices and under the names of that
// moment, and where it is.
type Order struct {
	ID              uuid.UUID `json:"id"`
	CustomerID      uuid.UUID `json:"customer_id"`
	RestaurantID    uuid.UUID `json:"restaurant_id"`
	RestaurantName  string    `json:"restaurant_name"`
	Status          Status    `json:"status"`
	Items           []Item    `json:"items"`
	Total           int64     `json:"total"` // minor units of Currency
	Currency        string    `json:"currency"`
	DeliveryAddress Address   `json:"delivery_address"`
	PaymentMethod   string    `json:"payment_method"`
	Notes           string    `json:"notes"`
	CancelReason    Cause     `json:"cancel_reason,omitempty"`
	CancelCode      string    `json:"cancel_code,omitempty"` // the payment's failure code
	PaymentDeadline time.Time `json:"payment_deadline"`
	CreatedAt       time.Time `json:"created_at"`
	UpdatedAt       time.Time `json:"updated_at"`
}

// Item is one line of an order. Prices are minor units of the order's currency.
type Item struct {
	MenuItemID uuid.UUID `json:"menu_item_id"`
	Name       string    `json:"name"`
	UnitPrice  int64     `json:"unit_price"`
	Quantity   int       `json:"quantity"`
	LineTotal  int64     `json:"line_total"`
}

// Address is where an order goes. Country is ISO 3166-1 alpha-2.
type Address struct {
	Line1      string `json:"line1"`
	Line2      string `json:"line2,omitempty"`
	City       string `json:"city"`
	PostalCode string `json:"postal_code"`
	Country    string `json:"country"`
}

// Placement is what a customer asks for. Prices, names, total and owner are not
// part of it: they come from the server.
type Placement struct {
	RestaurantID    uuid.UUID    `json:"restaurant_id"`
	Items           []PlacedItem `json:"items"`
	DeliveryAddress Address      `json:"delivery_address"`
	PaymentMethod   string       `json:"payment_method"`
	Notes           string       `json:"notes"`
}

// PlacedItem is one wanted item.
type PlacedItem struct {
	MenuItemID uuid.UUID `json:"menu_item_id"`
	Quantity   int       `json:"quantity"`
}

// validate checks what can be told without the catalogue.
func (p Placement) validate() error {
	var bad problems
	if p.RestaurantID == uuid.Nil {
		bad.add("/restaurant_id", "is required")
	}
	items := p.Items
	if n := len(items); n < 1 || n > maxItems {
		bad.add("/items", "must hold from 1 to %d items", maxItems)
		items = nil // not one problem per item of a list that is refused as a whole
	}
	first := make(map[uuid.UUID]int, len(items))
	for i, it := range items {
		if it.MenuItemID == uuid.Nil {
			bad.add(pointer("items", i, "menu_item_id"), "is required")
		} else if j, twice := first[it.MenuItemID]; twice {
			bad.add(pointer("items", i, "menu_item_id"), "is the same as in item %d; raise its quantity instead", j)
		} else {
			first[it.MenuItemID] = i
		}
		if it.Quantity < 1 || it.Quantity > maxQuantity {
			bad.add(pointer("items", i, "quantity"), "must be from 1 to %d", maxQuantity)
		}
	}
	a := p.DeliveryAddress
	bad.line("/delivery_address/line1", a.Line1, 1, maxLine)
	bad.line("/delivery_address/line2", a.Line2, 0, maxLine)
	bad.line("/delivery_address/city", a.City, 1, maxLine)
	bad.line("/delivery_address/postal_code", a.PostalCode, 1, maxLine)
	if !isCountry(a.Country) {
		bad.add("/delivery_address/country", "must be an ISO 3166-1 alpha-2 code such as IN")
	}
	bad.line("/payment_method", p.PaymentMethod, 1, 100)
	bad.text("/notes", p.Notes, 500)
	return bad.err()
}

// newOrder prices p with the restaurant's menu, which holds at least those of
// p's items that the restaurant has.
func newOrder(p Placement, r Restaurant, customer, id uuid.UUID, now, deadline time.Time) (Order, error) {
	var bad problems
	if !r.Open {
		bad.add("/restaurant_id", "this restaurant is closed")
	}
	o := Order{
		ID: id, CustomerID: customer, RestaurantID: r.ID, RestaurantName: r.Name,
		Status: Pending, Items: make([]Item, 0, len(p.Items)), Currency: r.Currency,
		DeliveryAddress: p.DeliveryAddress, PaymentMethod: p.PaymentMethod, Notes: p.Notes,
		PaymentDeadline: deadline, CreatedAt: now, UpdatedAt: now,
	}
	for i, want := range p.Items {
		at := slices.IndexFunc(r.Menu, func(m MenuItem) bool { return m.ID == want.MenuItemID })
		if at < 0 {
			bad.add(pointer("items", i, "menu_item_id"), "is not on the menu of this restaurant")
			continue
		}
		m := r.Menu[at]
		if !m.Available {
			bad.add(pointer("items", i, "menu_item_id"), "is not available")
			continue
		}
		if m.Price > MaxAmount/int64(want.Quantity) {
			bad.add(pointer("items", i, "quantity"), "makes the line exceed %d", MaxAmount)
			continue
		}
		line := m.Price * int64(want.Quantity)
		if line > MaxAmount-o.Total {
			bad.add("/items", "the total exceeds %d", MaxAmount)
			break
		}
		o.Total += line
		o.Items = append(o.Items, Item{MenuItemID: m.ID, Name: m.Name, UnitPrice: m.Price, Quantity: want.Quantity, LineTotal: line})
	}
	return o, bad.err()
}

// move changes the status, if the table allows it. code is kept when cancelling.
func (o *Order) move(to Status, cause Cause, code string, now time.Time) error {
	if !allowed(o.Status, to, cause) {
		return errs.New(errs.Conflict, "an order that is %s cannot become %s", o.Status, to)
	}
	o.Status, o.UpdatedAt = to, now
	if to == Cancelled {
		o.CancelReason, o.CancelCode = cause, code
	}
	return nil
}

// asPlaced is the order as its placing was answered: what a replay of the same
// Idempotency-Key gets, whatever has happened since. Only what move changes
// has to be undone.
func (o Order) asPlaced() Order {
	o.Status, o.UpdatedAt = Pending, o.CreatedAt
	o.CancelReason, o.CancelCode = "", ""
	return o
}

// Entry is one line of an order's timeline.
type Entry struct {
	Seq     int64          `json:"seq"`
	At      time.Time      `json:"at"`
	Kind    string         `json:"kind"` // the event's type
	Detail  map[string]any `json:"detail"`
	EventID uuid.UUID      `json:"event_id"`
}

// instant is now as the database keeps it, so that what is answered and what
// is read back later are the same.
func instant(now time.Time) time.Time { return now.UTC().Truncate(time.Microsecond) }
