package order

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Source names this service in the events it emits.
const Source = "order-service"

// keyLife is how long an Idempotency-Key is remembered.
const keyLife = 24 * time.Hour

// Service runs the use cases, one transaction each. It is safe for concurrent
// use, and several replicas may work on one database.
type Service struct {
	db       *outbox.DB
	deadline time.Duration
	log      *slog.Logger
	now      func() time.Time
}

// NewService returns a Service whose orders await their payment for as long as
// deadline says.
func NewService(db *outbox.DB, deadline time.Duration, log *slog.Logger, now func() time.Time) *Service {
	return &Service{db: db, deadline: deadline, log: log, now: now}
}

// Actor is who asks.
type Actor struct {
	ID    uuid.UUID
	Admin bool
}

func (a Actor) maySee(o Order) bool { return a.Admin || a.ID == o.CustomerID }

// Filter chooses orders of a list. Zero fields do not restrict.
type Filter struct {
	CustomerID uuid.UUID
	Status     Status
	Before     uuid.UUID // the last order of the page before
	Limit      int
}

// Place stores a pending order of the customer and tells the payment service of
// it. With a key (Idempotency-Key), the same request within 24 h gives the same
// order again, as it was placed; what is refused is not remembered.
func (s *Service) Place(ctx context.Context, customer uuid.UUID, key string, p Placement) (Order, error) {
	if err := p.validate(); err != nil {
		return Order{}, err
	}
	var o Order
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		now := instant(s.now())
		var hash []byte
		if key != "" {
			var placed uuid.UUID
			var err error
			if placed, hash, err = s.claimKey(ctx, tx, customer, key, p, now); err != nil {
				return err
			}
			if placed != uuid.Nil {
				before, err := findOrder(ctx, tx, placed)
				o = before.asPlaced()
				return err
			}
		}
		var err error
		if o, err = s.price(ctx, tx, customer, p, now); err != nil {
			return err
		}
		insertOrder(tx, o) // its row is locked from here on
		if key != "" {
			insertKey(tx, customer, key, hash, o.ID, now)
		}
		s.tell(ctx, tx, o, created(o), map[string]any{"total": o.Total, "currency": o.Currency})
		return nil
	})
	return o, err
}

// claimKey gives the order that was placed with key, uuid.Nil if this request
// is the first, and the request's hash.
func (s *Service) claimKey(ctx context.Context, tx *outbox.Tx, customer uuid.UUID, key string, p Placement, now time.Time) (uuid.UUID, []byte, error) {
	request, err := json.Marshal(p)
	if err != nil {
		return uuid.Nil, nil, fmt.Errorf("hash request: %w", err)
	}
	hash := sha256.Sum256(request)
	name := sha256.Sum256(slices.Concat([]byte("order-service/idempotency-key/"), customer[:], []byte(key)))
	got, err := lockKey(ctx, tx, int64(binary.BigEndian.Uint64(name[:8])))
	if err != nil {
		return uuid.Nil, nil, err
	}
	if !got {
		return uuid.Nil, nil, &errs.Error{Kind: errs.Conflict, RetryAfter: time.Second,
			Detail: "a request with this Idempotency-Key is still running; send it again in a moment"}
	}
	placed, before, err := findKey(ctx, tx, customer, key, now.Add(-keyLife))
	if err != nil {
		return uuid.Nil, nil, err
	}
	if placed != uuid.Nil && !slices.Equal(before, hash[:]) {
		return uuid.Nil, nil, errs.New(errs.Invalid, "this Idempotency-Key was used with another body; use a new key for another order")
	}
	return placed, hash[:], nil
}

func (s *Service) price(ctx context.Context, tx *outbox.Tx, customer uuid.UUID, p Placement, now time.Time) (Order, error) {
	wanted := make([]uuid.UUID, len(p.Items))
	for i, it := range p.Items {
		wanted[i] = it.MenuItemID
	}
	r, err := findRestaurant(ctx, tx, p.RestaurantID, wanted)
	if errs.KindOf(err) == errs.NotFound {
		return Order{}, errs.BadFields(errs.Invalid, errs.Field{Pointer: "/restaurant_id", Detail: "there is no such restaurant"})
	}
	if err != nil {
		return Order{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Order{}, fmt.Errorf("make order id: %w", err)
	}
	return newOrder(p, r, customer, id, now, now.Add(s.deadline))
}

// Get returns an order that the actor may see.
func (s *Service) Get(ctx context.Context, who Actor, id uuid.UUID) (Order, error) {
	o, err := findOrder(ctx, s.db.Pool, id)
	if err != nil {
		return Order{}, err
	}
	if !who.maySee(o) {
		return Order{}, errNoOrder()
	}
	return o, nil
}

// List returns orders, newest first.
func (s *Service) List(ctx context.Context, f Filter) ([]Order, error) {
	return listOrders(ctx, s.db.Pool, f)
}

// Timeline returns the entries of an order after a number, oldest first. The
// caller has checked with Get that its client may see the order.
func (s *Service) Timeline(ctx context.Context, id uuid.UUID, after int64) ([]Entry, error) {
	return listTimeline(ctx, s.db.Pool, id, after)
}

// Cancel ends an order that is pending or confirmed, for its customer or an
// Admin. Whatever was charged goes back, which the payment service sees to.
func (s *Service) Cancel(ctx context.Context, who Actor, id uuid.UUID) (Order, error) {
	var o Order
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		var err error
		if o, err = lockOrder(ctx, tx, id); err != nil {
			return err
		}
		if !who.maySee(o) {
			return errNoOrder()
		}
		cause := ByCustomer
		if who.ID != o.CustomerID {
			cause = ByAdmin
		}
		return s.move(ctx, tx, &o, Cancelled, cause, "")
	})
	return o, err
}

// SetStatus moves an order on, as an Admin. What the transitions do not allow
// to an Admin is a conflict.
func (s *Service) SetStatus(ctx context.Context, id uuid.UUID, to Status) (Order, error) {
	if !to.Valid() {
		return Order{}, errs.BadFields(errs.Invalid, errs.Field{Pointer: "/status", Detail: "must be one of preparing, out_for_delivery, delivered, cancelled"})
	}
	var o Order
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		var err error
		if o, err = lockOrder(ctx, tx, id); err != nil {
			return err
		}
		return s.move(ctx, tx, &o, to, ByAdmin, "")
	})
	return o, err
}

// move makes a transition of an order whose row is locked: the row, the
// timeline and the event, all or nothing.
func (s *Service) move(ctx context.Context, tx *outbox.Tx, o *Order, to Status, cause Cause, code string) error {
	from := o.Status
	if err := o.move(to, cause, code, instant(s.now())); err != nil {
		return err
	}
	updateStatus(tx, *o)
	if to == Cancelled {
		detail := map[string]any{"from": from, "reason": cause}
		if code != "" {
			detail["code"] = code
		}
		s.tell(ctx, tx, *o, event.OrderCancelled{
			OrderID: o.ID, CustomerID: o.CustomerID, Reason: string(cause), Code: code, CancelledAt: o.UpdatedAt,
		}, detail)
		return nil
	}
	s.tell(ctx, tx, *o, event.OrderStatusChanged{
		OrderID: o.ID, CustomerID: o.CustomerID, From: string(from), To: string(to), ChangedAt: o.UpdatedAt,
	}, map[string]any{"from": from, "to": to})
	return nil
}

// tell emits the event about the change that o has just gone through, and puts
// it on the timeline. The order's row is locked.
func (s *Service) tell(ctx context.Context, tx *outbox.Tx, o Order, p event.Payload, detail map[string]any) {
	e := event.New(Source, p)
	e.Time = o.UpdatedAt
	s.record(tx, o.ID, e, detail)
	tx.Emit(ctx, e)
}

// record puts an event on the timeline of an order whose row is locked, and
// wakes those who watch it once that is committed.
func (s *Service) record(tx *outbox.Tx, order uuid.UUID, e event.Event, detail map[string]any) {
	at := e.Time
	if at.IsZero() { // a producer that sends no ce_time
		at = s.now()
	}
	appendTimeline(tx, order, Entry{At: instant(at), Kind: e.Type, Detail: detail, EventID: e.ID})
	tx.Ring(BellKey(order))
}

// BellKey is the doorbell key that is rung when an order's timeline has grown.
func BellKey(order uuid.UUID) string { return "order:" + order.String() }

func created(o Order) event.OrderCreated {
	items := make([]event.OrderItem, len(o.Items))
	for i, it := range o.Items {
		items[i] = event.OrderItem{MenuItemID: it.MenuItemID, Name: it.Name, UnitPrice: it.UnitPrice, Quantity: it.Quantity}
	}
	return event.OrderCreated{
		OrderID: o.ID, CustomerID: o.CustomerID, RestaurantID: o.RestaurantID, RestaurantName: o.RestaurantName,
		Items: items, Total: o.Total, Currency: o.Currency, PaymentMethod: o.PaymentMethod, CreatedAt: o.CreatedAt,
	}
}
