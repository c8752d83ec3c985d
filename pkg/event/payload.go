package event

import (
	"time"

	"github.com/google/uuid"
)

// Event types; each is also the name of its topic.
const (
	TypeOrderCreated                  = "order.created"
	TypePaymentCompleted              = "payment.completed"
	TypePaymentFailed                 = "payment.failed"
	TypeOrderCancelled                = "order.cancelled"
	TypeOrderStatusChanged            = "order.status_changed"
	TypePaymentRefundRequested        = "payment.refund_requested"
	TypePaymentRefunded               = "payment.refunded"
	TypeUserRegistered                = "user.registered"
	TypeNotificationDeliveryRequested = "notification.delivery_requested"
)

// Types lists every event type, and so every main topic.
func Types() []string {
	return []string{
		TypeOrderCreated, TypePaymentCompleted, TypePaymentFailed, TypeOrderCancelled, TypeOrderStatusChanged,
		TypePaymentRefundRequested, TypePaymentRefunded, TypeUserRegistered, TypeNotificationDeliveryRequested,
	}
}

// OrderItem is a menu item as it was ordered. Prices are minor units of the
// order's currency.
type OrderItem struct {
	MenuItemID uuid.UUID `json:"menu_item_id"`
	Name       string    `json:"name"`
	UnitPrice  int64     `json:"unit_price"`
	Quantity   int       `json:"quantity"`
}

// OrderCreated says that a customer placed an order that awaits its payment.
type OrderCreated struct {
	OrderID        uuid.UUID   `json:"order_id"`
	CustomerID     uuid.UUID   `json:"customer_id"`
	RestaurantID   uuid.UUID   `json:"restaurant_id"`
	RestaurantName string      `json:"restaurant_name"`
	Items          []OrderItem `json:"items"`
	Total          int64       `json:"total"`
	Currency       string      `json:"currency"`
	PaymentMethod  string      `json:"payment_method"`
	CreatedAt      time.Time   `json:"created_at"`
}

// PaymentCompleted says that an order's amount was charged.
type PaymentCompleted struct {
	PaymentID   uuid.UUID `json:"payment_id"`
	OrderID     uuid.UUID `json:"order_id"`
	CustomerID  uuid.UUID `json:"customer_id"`
	Amount      int64     `json:"amount"`
	Currency    string    `json:"currency"`
	ProviderRef string    `json:"provider_ref"`
	CompletedAt time.Time `json:"completed_at"`
}

// PaymentFailed says that the provider declined; no money moved.
type PaymentFailed struct {
	PaymentID  uuid.UUID `json:"payment_id"`
	OrderID    uuid.UUID `json:"order_id"`
	CustomerID uuid.UUID `json:"customer_id"`
	Amount     int64     `json:"amount"`
	Currency   string    `json:"currency"`
	Code       string    `json:"code"` // card_declined, insufficient_funds, expired_card, ...
	Message    string    `json:"message"`
	FailedAt   time.Time `json:"failed_at"`
}

// OrderCancelled says that an order ended without a delivery; whatever was
// charged for it must go back.
type OrderCancelled struct {
	OrderID     uuid.UUID `json:"order_id"`
	CustomerID  uuid.UUID `json:"customer_id"`
	Reason      string    `json:"reason"`         // payment_failed, payment_timeout, customer, admin
	Code        string    `json:"code,omitempty"` // the payment's failure code
	CancelledAt time.Time `json:"cancelled_at"`
}

// OrderStatusChanged says that an order moved on; never to cancelled, which has
// its own event.
type OrderStatusChanged struct {
	OrderID    uuid.UUID `json:"order_id"`
	CustomerID uuid.UUID `json:"customer_id"`
	From       string    `json:"from"`
	To         string    `json:"to"` // confirmed, preparing, out_for_delivery, delivered
	ChangedAt  time.Time `json:"changed_at"`
}

// PaymentRefundRequested asks the payment service, of itself, to make sure that
// no money of a payment is kept.
type PaymentRefundRequested struct {
	PaymentID   uuid.UUID `json:"payment_id"`
	OrderID     uuid.UUID `json:"order_id"`
	RequestedAt time.Time `json:"requested_at"`
}

// PaymentRefunded says that a charged amount went back.
type PaymentRefunded struct {
	PaymentID   uuid.UUID `json:"payment_id"`
	OrderID     uuid.UUID `json:"order_id"`
	CustomerID  uuid.UUID `json:"customer_id"`
	Amount      int64     `json:"amount"`
	Currency    string    `json:"currency"`
	ProviderRef string    `json:"provider_ref"`
	RefundedAt  time.Time `json:"refunded_at"`
}

// UserRegistered says that an account exists.
type UserRegistered struct {
	UserID       uuid.UUID `json:"user_id"`
	Email        string    `json:"email"`
	Name         string    `json:"name"`
	RegisteredAt time.Time `json:"registered_at"`
}

// NotificationDeliveryRequested asks the notification service, of itself, to
// hand one notification to a channel.
type NotificationDeliveryRequested struct {
	NotificationID uuid.UUID  `json:"notification_id"`
	OrderID        *uuid.UUID `json:"order_id,omitempty"` // nil for notifications about no order
	UserID         uuid.UUID  `json:"user_id"`
	Channel        string     `json:"channel"` // log, smtp
	RequestedAt    time.Time  `json:"requested_at"`
}

// EventType and EventKey of each payload: the topic, and the aggregate whose
// facts stay in order.

func (OrderCreated) EventType() string               { return TypeOrderCreated }
func (p OrderCreated) EventKey() uuid.UUID           { return p.OrderID }
func (PaymentCompleted) EventType() string           { return TypePaymentCompleted }
func (p PaymentCompleted) EventKey() uuid.UUID       { return p.OrderID }
func (PaymentFailed) EventType() string              { return TypePaymentFailed }
func (p PaymentFailed) EventKey() uuid.UUID          { return p.OrderID }
func (OrderCancelled) EventType() string             { return TypeOrderCancelled }
func (p OrderCancelled) EventKey() uuid.UUID         { return p.OrderID }
func (OrderStatusChanged) EventType() string         { return TypeOrderStatusChanged }
func (p OrderStatusChanged) EventKey() uuid.UUID     { return p.OrderID }
func (PaymentRefundRequested) EventType() string     { return TypePaymentRefundRequested }
func (p PaymentRefundRequested) EventKey() uuid.UUID { return p.OrderID }
func (PaymentRefunded) EventType() string            { return TypePaymentRefunded }
func (p PaymentRefunded) EventKey() uuid.UUID        { return p.OrderID }
func (UserRegistered) EventType() string             { return TypeUserRegistered }
func (p UserRegistered) EventKey() uuid.UUID         { return p.UserID }

func (NotificationDeliveryRequested) EventType() string { return TypeNotificationDeliveryRequested }

// EventKey is the order, or the user for a notification about no order.
func (p NotificationDeliveryRequested) EventKey() uuid.UUID {
	if p.OrderID != nil {
		return *p.OrderID
	}
	return p.UserID
}
