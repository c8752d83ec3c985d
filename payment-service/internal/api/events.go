package api

import (
	"context"
	"errors"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Numbers of the consumers in this service's inbox. They never change meaning:
// rows of msg.processed_events carry them.
const (
	onOrderCreated    int16 = 1
	onOrderCancelled  int16 = 2
	onRefundRequested int16 = 3
)

// Subscriptions returns what the service does about events.
func Subscriptions(payments *payment.Service) []kafka.Subscription {
	subs := []kafka.Subscription{
		kafka.OnPrepared(onOrderCreated, event.TypeOrderCreated,
			func(ctx context.Context, _ event.Event, p event.OrderCreated) (payment.Outcome, error) {
				out, err := payments.Charge(ctx, p)
				return out, final(err)
			},
			func(ctx context.Context, tx *outbox.Tx, _ event.Event, p event.OrderCreated, out payment.Outcome) error {
				return payments.ApplyCharge(ctx, tx, p, out)
			}),
		kafka.On(onOrderCancelled, event.TypeOrderCancelled,
			func(ctx context.Context, tx *outbox.Tx, _ event.Event, p event.OrderCancelled) error {
				return final(payments.ApplyCancel(ctx, tx, p))
			}),
		kafka.OnPrepared(onRefundRequested, event.TypePaymentRefundRequested,
			func(ctx context.Context, _ event.Event, p event.PaymentRefundRequested) (payment.Outcome, error) {
				return payments.Void(ctx, p)
			},
			func(ctx context.Context, tx *outbox.Tx, _ event.Event, p event.PaymentRefundRequested, out payment.Outcome) error {
				return payments.ApplyVoid(ctx, tx, p, out)
			}),
	}
	for i := range subs {
		subs[i].Load = kafka.BySubject(payments.Lock)
	}
	return subs
}

// Topics lists what the service publishes, so that all of it exists before the
// first event.
func Topics() []string {
	return []string{event.TypePaymentCompleted, event.TypePaymentFailed, event.TypePaymentRefundRequested, event.TypePaymentRefunded}
}

// final dead-letters at once what no retry mends.
func final(err error) error {
	if errors.Is(err, payment.ErrUnusable) {
		return kafka.Permanent(err)
	}
	return err
}
