// Package payment owns payments: the rules by which an order is charged at most
// once and by which no money is kept for an order that was cancelled, whatever
// is late, doubled, out of order or killed half-way.
//
// Three events come in. Each has a part that talks to the provider, outside of
// any transaction and at least once, and a part that writes, exactly once:
//
//	order.created             Charge  ->  ApplyCharge
//	order.cancelled                       ApplyCancel
//	payment.refund_requested  Void    ->  ApplyVoid
//
// What makes them safe against each other:
//
//   - An order that is cancelled before its payment exists leaves a row that is
//     voided already (the tombstone), which a later order.created respects.
//   - The intent's reference is stored only while nobody has asked to cancel, and
//     nothing is confirmed whose reference is not stored. So whoever cancels
//     either sees the reference, and voids it, or knows that none will be used.
//   - The provider charges an intent at most once, and never after it was voided.
package payment

import (
	"time"

	"github.com/google/uuid"
)

// Status is where a payment stands.
type Status string

// The statuses. Failed, Voided and Refunded are ends; Completed is one unless
// the order is cancelled.
const (
	Pending       Status = "pending"
	Completed     Status = "completed"      // charged, and the money is kept
	Failed        Status = "failed"         // declined
	Voided        Status = "voided"         // never charged, and never will be
	RefundPending Status = "refund_pending" // charged, and the money must go back
	Refunded      Status = "refunded"       // charged, and the money went back
)

// Payment is an order's payment; its JSON is the API's. An order has one at
// most.
type Payment struct {
	ID             uuid.UUID `json:"id"`
	OrderID        uuid.UUID `json:"order_id"`
	CustomerID     uuid.UUID `json:"customer_id"`
	Amount         int64     `json:"amount"` // minor units of Currency
	Currency       string    `json:"currency"`
	Status         Status    `json:"status"`
	Provider       string    `json:"provider"`
	ProviderRef    string    `json:"provider_ref,omitempty"` // the provider's intent
	FailureCode    string    `json:"failure_code,omitempty"`
	FailureMessage string    `json:"failure_message,omitempty"`
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`

	Method string `json:"-"` // the provider's token of what to charge
	// CancelRequested says that the order was cancelled while the payment was
	// pending: it may or may not have been charged.
	CancelRequested bool `json:"-"`
	// RefundAsks counts the refund_requested events that were emitted, RefundDue
	// is when the next one follows if the payment has not ended by then.
	RefundAsks int        `json:"-"`
	RefundDue  *time.Time `json:"-"`
}

// Fact is what a change of a payment means to others: an event.
type Fact int

// The facts.
const (
	FactCompleted Fact = iota + 1
	FactFailed
	FactRefundRequested
	FactRefunded
)

// Chargeable says whether the provider may be asked for money.
func (p *Payment) Chargeable() bool { return p.Status == Pending && !p.CancelRequested }

// Releasing says whether the provider must be asked to keep no money.
func (p *Payment) Releasing() bool {
	return p.Status == RefundPending || p.Status == Pending && p.CancelRequested
}

// Settle records what came of charging. A charge that succeeded although the
// order was cancelled meanwhile is told, and then given back. An intent that
// somebody voided before it was charged changes nothing: who voided it records
// that.
func (p *Payment) Settle(o Outcome) []Fact {
	if p.Status != Pending {
		return nil
	}
	switch o.Result {
	case Charged:
		if p.CancelRequested {
			p.Status = RefundPending
			return []Fact{FactCompleted, FactRefundRequested}
		}
		p.Status = Completed
		return []Fact{FactCompleted}
	case Declined:
		p.Status, p.FailureCode, p.FailureMessage = Failed, o.Code, o.Message
		return []Fact{FactFailed}
	default:
		return nil
	}
}

// Cancel records that the order was cancelled.
func (p *Payment) Cancel() []Fact {
	switch {
	case p.Chargeable():
		p.CancelRequested = true
	case p.Status == Completed:
		p.Status = RefundPending
	default:
		return nil
	}
	return []Fact{FactRefundRequested}
}

// Release records that the provider keeps no money. Whoever was charged learns
// of the charge as well as of the refund, also when the process that charged
// was killed before it could tell.
func (p *Payment) Release(o Outcome) []Fact {
	if !p.Releasing() || o.Result != VoidedIntent && o.Result != RefundedCharge {
		return nil
	}
	switch {
	case p.Status == RefundPending:
		p.Status = Refunded
		return []Fact{FactRefunded}
	case o.Result == RefundedCharge:
		p.Status = Refunded
		return []Fact{FactCompleted, FactRefunded}
	default:
		p.Status = Voided
		return nil
	}
}
