package simulator

import (
	"errors"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
)

// Tokens that fail as providers do. Stripe's public test tokens decide as they
// do at Stripe; see declines.
const (
	Visa       = "pm_card_visa"
	Mastercard = "pm_card_mastercard"

	Declined          = "pm_card_visa_chargeDeclined"
	InsufficientFunds = "pm_card_visa_chargeDeclinedInsufficientFunds"
	Expired           = "pm_card_chargeDeclinedExpiredCard"

	// Timeout never answers a Confirm and never charges.
	Timeout = "tok_provider_timeout"
	// ErrorTwice answers two Confirms with an error and does as it is told the
	// third time.
	ErrorTwice = "tok_provider_error_twice"
	// AnswerLost charges at the first Confirm, and the answer gets lost.
	AnswerLost = "tok_provider_answer_lost"
)

// The errors that Timeout, AnswerLost and ErrorTwice cause: nothing is known
// about what the call did.
var (
	ErrTimeout     = errors.New("the provider did not answer in time")
	ErrUnavailable = errors.New("the provider answered 503 Service Unavailable")
)

var declines = map[string]payment.Outcome{
	Declined:          {Result: payment.Declined, Code: "card_declined", Message: "Your card was declined."},
	InsufficientFunds: {Result: payment.Declined, Code: "insufficient_funds", Message: "Your card has insufficient funds."},
	Expired:           {Result: payment.Declined, Code: "expired_card", Message: "Your card has expired."},
}

var unknownMethod = payment.Outcome{
	Result: payment.Declined, Code: "invalid_payment_method", Message: "This payment method is not known.",
}

// State is where an intent stands.
type State string

// The states.
const (
	Created    State = "created"
	IsCharged  State = "charged"
	IsDeclined State = "declined"
	IsVoided   State = "voided"
	IsRefunded State = "refunded"
)

// Intent is a wish to charge somebody: the simulator's rules, without its
// books. Its state is what keeps it from being charged twice, or after it was
// voided.
type Intent struct {
	Method   string
	State    State
	Confirms int // Confirm calls while it was neither charged nor ended
}

// Confirm charges the intent if it is still to be, and says what came of it.
// The state is changed also where an error is the answer: a caller that got
// none cannot know.
func (i *Intent) Confirm() (payment.Outcome, error) {
	switch i.State {
	case IsCharged:
		return payment.Outcome{Result: payment.Charged}, nil
	case IsVoided:
		return payment.Outcome{Result: payment.VoidedIntent}, nil
	case IsRefunded:
		return payment.Outcome{Result: payment.RefundedCharge}, nil
	case IsDeclined:
		return decline(i.Method), nil
	}
	i.Confirms++
	switch i.Method {
	case Visa, Mastercard:
	case Timeout:
		return payment.Outcome{}, ErrTimeout
	case ErrorTwice:
		if i.Confirms <= 2 {
			return payment.Outcome{}, ErrUnavailable
		}
	case AnswerLost:
		i.State = IsCharged
		return payment.Outcome{}, ErrTimeout
	default:
		i.State = IsDeclined
		return decline(i.Method), nil
	}
	i.State = IsCharged
	return payment.Outcome{Result: payment.Charged}, nil
}

// Void makes sure that no money is kept, and says whether some was.
func (i *Intent) Void() payment.Outcome {
	switch i.State {
	case IsCharged, IsRefunded:
		i.State = IsRefunded
		return payment.Outcome{Result: payment.RefundedCharge}
	default:
		i.State = IsVoided
		return payment.Outcome{Result: payment.VoidedIntent}
	}
}

func decline(method string) payment.Outcome {
	if o, ok := declines[method]; ok {
		return o
	}
	return unknownMethod
}
