package api

import (
	"context"
	"errors"

	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Numbers of the consumers in this service's inbox. They never change meaning:
// rows of msg.processed_events carry them.
const (
	onPaymentCompleted int16 = 1
	onPaymentFailed    int16 = 2
	onPaymentRefunded  int16 = 3
)

// Subscriptions returns what the service does about other services' events.
func Subscriptions(orders *order.Service) []kafka.Subscription {
	return []kafka.Subscription{
		subscribe(orders, onPaymentCompleted, event.TypePaymentCompleted, orders.ApplyPaymentCompleted),
		subscribe(orders, onPaymentFailed, event.TypePaymentFailed, orders.ApplyPaymentFailed),
		subscribe(orders, onPaymentRefunded, event.TypePaymentRefunded, orders.ApplyPaymentRefunded),
	}
}

// subscribe dead-letters at once what no retry mends.
func subscribe[P any](orders *order.Service, consumer int16, topic string, apply func(context.Context, *outbox.Tx, event.Event, P) error) kafka.Subscription {
	sub := kafka.On(consumer, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p P) error {
		err := apply(ctx, tx, e, p)
		if _, ok := errors.AsType[*order.MismatchError](err); ok {
			return kafka.Permanent(err)
		}
		return err
	})
	sub.Load = kafka.BySubject(orders.Lock)
	return sub
}

// Topics lists what the service publishes, so that all of it exists before the
// first event.
func Topics() []string {
	return []string{event.TypeOrderCreated, event.TypeOrderCancelled, event.TypeOrderStatusChanged}
}
