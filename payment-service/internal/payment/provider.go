package payment

import (
	"context"
	"strings"
)

// Provider moves the money. Its calls are made at least once: again after a
// timeout, a crash or a rebalance, and by two processes at the same time. So an
// intent is charged at most once by its own state, not by an idempotency key,
// which providers forget after a day.
//
// An error says that nothing is known about what the call did: it is made again
// later. What the provider decided is an Outcome.
type Provider interface {
	// Create makes an intent to charge amount, in minor units, and moves no
	// money. An intent that is never confirmed is harmless, so a second one for
	// the same key is, too. The key is the order's id.
	Create(ctx context.Context, key string, amount int64, currency, method string) (ref string, err error)
	// Confirm charges an intent, unless it was confirmed or voided before: then
	// it says what came of it. A decline is final.
	Confirm(ctx context.Context, ref string) (Outcome, error)
	// Void makes sure that no money is kept and that none will be charged: it
	// cancels an intent or refunds its charge. Doing so again is a success.
	Void(ctx context.Context, ref string) (Outcome, error)
}

// Result says what became of an intent.
type Result string

// The results. The zero Result says that the provider was not asked.
const (
	Charged        Result = "charged"
	Declined       Result = "declined"
	VoidedIntent   Result = "voided"   // it was never charged and cannot be any more
	RefundedCharge Result = "refunded" // it was charged, and the money went back
)

// Outcome is what the provider decided.
type Outcome struct {
	Result Result
	// Of a decline: a code such as card_declined, insufficient_funds or
	// expired_card, and a sentence for the customer.
	Code, Message string
}

// Bounds, in bytes, of what is kept of a provider's words.
const (
	maxCode    = 100
	maxMessage = 500
)

// storable is o with a code for every decline, and with texts that a database
// and a JSON document can hold.
func (o Outcome) storable() Outcome {
	if o.Result != Declined {
		return Outcome{Result: o.Result}
	}
	if o.Code = text(o.Code, maxCode); o.Code == "" {
		o.Code = "card_declined"
	}
	o.Message = text(o.Message, maxMessage)
	return o
}

func text(s string, limit int) string {
	s = strings.ReplaceAll(s[:min(len(s), limit)], "\x00", "")
	return strings.ToValidUTF8(s, "") // also mends a rune that was cut
}
