package api

import (
	"context"
	"errors"
	"time"

	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Numbers of the subscriptions in the inbox. They are stored: never reuse one
// and never change what it stands for.
const (
	onUserRegistered    int16 = 1
	onOrderCreated      int16 = 2
	onPaymentCompleted  int16 = 3
	onPaymentFailed     int16 = 4
	onOrderStatus       int16 = 5
	onOrderCancelled    int16 = 6
	onPaymentRefunded   int16 = 7
	onDeliveryRequested int16 = 8
)

// Events come in bursts, of several relays and of the service's own requests:
// those of this time are one transaction.
const (
	linger = 1 * time.Millisecond
	// What follows soon is what users wait for: an order is confirmed, or not, a
	// few milliseconds after it is paid. These go along with it.
	beforeLinger = 20 * time.Millisecond
	// Mails may take longer.
	deliveryLinger = 40 * time.Millisecond
)

// Subscriptions returns what the service consumes.
func Subscriptions(svc *notification.Service) []kafka.Subscription {
	subs := []kafka.Subscription{
		kafka.On(onUserRegistered, event.TypeUserRegistered,
			func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.UserRegistered) error {
				return final(svc.Register(ctx, tx, e, p))
			}),
		kafka.On(onOrderCreated, event.TypeOrderCreated, notify(svc, notification.OfOrderCreated)),
		kafka.On(onPaymentCompleted, event.TypePaymentCompleted, notify(svc, notification.OfPaymentCompleted)),
		kafka.On(onPaymentFailed, event.TypePaymentFailed, notify(svc, notification.OfPaymentFailed)),
		kafka.On(onOrderStatus, event.TypeOrderStatusChanged, notify(svc, notification.OfOrderStatusChanged)),
		kafka.On(onOrderCancelled, event.TypeOrderCancelled, notify(svc, notification.OfOrderCancelled)),
		kafka.On(onPaymentRefunded, event.TypePaymentRefunded, notify(svc, notification.OfPaymentRefunded)),
		kafka.OnPrepared(onDeliveryRequested, event.TypeNotificationDeliveryRequested,
			func(ctx context.Context, _ event.Event, p event.NotificationDeliveryRequested) (notification.Attempt, error) {
				attempt, err := svc.Deliver(ctx, p)
				return attempt, final(err)
			},
			func(ctx context.Context, tx *outbox.Tx, _ event.Event, p event.NotificationDeliveryRequested, a notification.Attempt) error {
				return svc.RecordAttempt(ctx, tx, p, a)
			}),
	}
	for i := range subs {
		switch subs[i].Consumer {
		case onOrderCreated, onPaymentCompleted:
			subs[i].Linger = beforeLinger
		case onDeliveryRequested:
			subs[i].Linger = deliveryLinger
		default:
			subs[i].Linger = linger
		}
	}
	return subs
}

// notify turns an event into the notification that of makes of it.
func notify[P any](svc *notification.Service, of func(P) (notification.Notice, error)) func(context.Context, *outbox.Tx, event.Event, P) error {
	return func(ctx context.Context, tx *outbox.Tx, e event.Event, p P) error {
		n, err := of(p)
		if err != nil {
			return final(err)
		}
		return svc.Notify(ctx, tx, e, n)
	}
}

// final dead-letters at once what no further attempt can cure.
func final(err error) error {
	if errors.Is(err, notification.ErrUnusable) || errors.Is(err, notification.ErrRefused) {
		return kafka.Permanent(err)
	}
	return err
}
