package order

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// The payment service's facts. They may come late, twice, or in any order
// against each other and against what people do: each is put on the timeline
// once, and moves the order only where the transitions allow it. So a payment
// that completes after a cancellation is seen and changes nothing here: the
// payment service, told of the cancellation, gives the money back.
//
// Each of these runs in the consumer's transaction, which has noted the event's
// id, so that a record delivered again does not come here.

// Lock reads the orders that a batch of facts is about, ahead of the Apply
// methods and in one statement.
func (s *Service) Lock(ctx context.Context, tx *outbox.Tx, orders []uuid.UUID) error {
	return lockOrders(ctx, tx, orders)
}

// ApplyPaymentCompleted confirms a pending order.
func (s *Service) ApplyPaymentCompleted(ctx context.Context, tx *outbox.Tx, e event.Event, p event.PaymentCompleted) error {
	o, err := s.paid(ctx, tx, p.OrderID, p.Amount, p.Currency)
	if err != nil {
		return err
	}
	s.record(tx, o.ID, e, map[string]any{"payment_id": p.PaymentID, "amount": p.Amount, "currency": p.Currency})
	if !allowed(o.Status, Confirmed, PaymentCompleted) {
		return nil
	}
	return s.move(ctx, tx, &o, Confirmed, PaymentCompleted, "")
}

// ApplyPaymentFailed cancels a pending order.
func (s *Service) ApplyPaymentFailed(ctx context.Context, tx *outbox.Tx, e event.Event, p event.PaymentFailed) error {
	o, err := s.paid(ctx, tx, p.OrderID, p.Amount, p.Currency)
	if err != nil {
		return err
	}
	s.record(tx, o.ID, e, map[string]any{"payment_id": p.PaymentID, "code": p.Code, "message": p.Message})
	if !allowed(o.Status, Cancelled, PaymentFailed) {
		return nil
	}
	return s.move(ctx, tx, &o, Cancelled, PaymentFailed, p.Code)
}

// ApplyPaymentRefunded notes that the money went back.
func (s *Service) ApplyPaymentRefunded(ctx context.Context, tx *outbox.Tx, e event.Event, p event.PaymentRefunded) error {
	o, err := s.paid(ctx, tx, p.OrderID, p.Amount, p.Currency)
	if err != nil {
		return err
	}
	s.record(tx, o.ID, e, map[string]any{"payment_id": p.PaymentID, "amount": p.Amount, "currency": p.Currency})
	return nil
}

// MismatchError says that an event is about an order that is not ours, or that
// it names another amount. No retry mends that, and confirming would deliver
// food that was not paid for.
type MismatchError struct{ detail string }

// Error tells what does not match.
func (e *MismatchError) Error() string { return e.detail }

// paid locks the order that a payment is for.
func (s *Service) paid(ctx context.Context, tx *outbox.Tx, id uuid.UUID, amount int64, currency string) (Order, error) {
	o, err := lockOrder(ctx, tx, id)
	if err != nil {
		if errs.KindOf(err) == errs.NotFound {
			return Order{}, &MismatchError{fmt.Sprintf("there is no order %s", id)}
		}
		return Order{}, err
	}
	if o.Total != amount || o.Currency != currency {
		return Order{}, &MismatchError{fmt.Sprintf("order %s costs %d %s, the payment is of %d %s", id, o.Total, o.Currency, amount, currency)}
	}
	return o, nil
}
