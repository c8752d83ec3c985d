// Package stripe charges cards through Stripe's PaymentIntents.
//
// An intent's own state decides what may be done with it, so calls that are
// made twice, or of which the answer was lost, are settled by looking at it.
// Idempotency keys are left to the library, fresh for each call: Stripe forgets
// them after a day, and until then replays saved errors.
package stripe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	sdk "github.com/stripe/stripe-go/v85"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
)

// Name is what payments carry as their provider.
const Name = "stripe"

// DefaultBase is where Stripe answers.
const DefaultBase = sdk.APIURL

const (
	metaOrder = "order_id"
	// metaUnknown marks an intent without a payment method, because Stripe did
	// not know the one that the customer gave.
	metaUnknown = "unknown_payment_method"
)

// Stripe is a payment.Provider.
type Stripe struct{ api *sdk.Client }

// New returns a provider that calls the API at base with a secret or restricted
// key. It does no I/O. One call of a method makes up to four requests; its
// context bounds them together.
func New(key, base string) *Stripe {
	none := int64(0) // whoever calls tries again, later
	return &Stripe{sdk.NewClient(key, sdk.WithBackends(sdk.NewBackendsWithConfig(&sdk.BackendConfig{
		URL:               sdk.String(strings.TrimSuffix(base, "/")),
		HTTPClient:        &http.Client{Timeout: time.Minute},
		MaxNetworkRetries: &none,
		EnableTelemetry:   sdk.Bool(false),
		LeveledLogger:     &sdk.LeveledLogger{Level: sdk.LevelNull},
	})))}
}

// Create makes an intent and moves no money. A payment method that Stripe does
// not know is a decline, which Confirm reports.
func (s *Stripe) Create(ctx context.Context, key string, amount int64, currency, method string) (string, error) {
	p := &sdk.PaymentIntentCreateParams{
		Amount:             &amount,
		Currency:           sdk.String(strings.ToLower(currency)),
		PaymentMethod:      &method,
		PaymentMethodTypes: []*string{sdk.String("card")}, // no method that redirects: nobody is there to follow
		Metadata:           map[string]string{metaOrder: key},
	}
	pi, err := s.api.V1PaymentIntents.Create(ctx, p)
	if e, ok := errors.AsType[*sdk.Error](err); ok && e.Type == sdk.ErrorTypeInvalidRequest && e.Param == "payment_method" {
		p = &sdk.PaymentIntentCreateParams{
			Amount: p.Amount, Currency: p.Currency, PaymentMethodTypes: p.PaymentMethodTypes,
			Metadata: map[string]string{metaOrder: key, metaUnknown: "true"},
		}
		pi, err = s.api.V1PaymentIntents.Create(ctx, p)
	}
	if err != nil {
		return "", plain(err)
	}
	return pi.ID, nil
}

// Confirm charges an intent that was never confirmed. The payment method is not
// sent again, so Stripe cannot try one that it declined before.
func (s *Stripe) Confirm(ctx context.Context, ref string) (payment.Outcome, error) {
	pi, err := s.retrieve(ctx, ref)
	if err != nil {
		return payment.Outcome{}, err
	}
	if pi.Status != sdk.PaymentIntentStatusRequiresConfirmation {
		return outcome(pi)
	}
	_, err = s.api.V1PaymentIntents.Confirm(ctx, ref, &sdk.PaymentIntentConfirmParams{
		ErrorOnRequiresAction: sdk.Bool(true), // nobody is there to authenticate: a decline
	})
	if err != nil && !refused(err) {
		return payment.Outcome{}, plain(err)
	}
	// A decline is an error of the call, and so is an intent that somebody else
	// confirmed or voided meanwhile: the intent itself tells them apart.
	pi, looked := s.retrieve(ctx, ref)
	if looked != nil {
		return payment.Outcome{}, looked
	}
	if pi.Status == sdk.PaymentIntentStatusRequiresConfirmation && err != nil {
		return payment.Outcome{}, plain(err)
	}
	return outcome(pi)
}

// Void cancels an intent or refunds its charge.
func (s *Stripe) Void(ctx context.Context, ref string) (payment.Outcome, error) {
	pi, err := s.retrieve(ctx, ref)
	if err != nil {
		return payment.Outcome{}, err
	}
	if pi.Status != sdk.PaymentIntentStatusSucceeded && pi.Status != sdk.PaymentIntentStatusCanceled {
		_, err = s.api.V1PaymentIntents.Cancel(ctx, ref, &sdk.PaymentIntentCancelParams{CancellationReason: sdk.String("abandoned")})
		if err == nil {
			return payment.Outcome{Result: payment.VoidedIntent}, nil
		}
		if !refused(err) {
			return payment.Outcome{}, plain(err)
		}
		var looked error
		if pi, looked = s.retrieve(ctx, ref); looked != nil { // it may have been charged meanwhile
			return payment.Outcome{}, looked
		}
	}
	switch {
	case pi.Status == sdk.PaymentIntentStatusCanceled:
		return payment.Outcome{Result: payment.VoidedIntent}, nil
	case pi.Status != sdk.PaymentIntentStatusSucceeded:
		return payment.Outcome{}, cmp.Or(plain(err), fmt.Errorf("intent is %s: it can be neither cancelled nor refunded yet", pi.Status))
	case refunded(pi):
		return payment.Outcome{Result: payment.RefundedCharge}, nil
	}
	return s.refund(ctx, ref)
}

// refund gives back what is left of the charge, all of it unless a person gave
// back a part. Stripe never gives back more than was charged.
func (s *Stripe) refund(ctx context.Context, ref string) (payment.Outcome, error) {
	r, err := s.api.V1Refunds.Create(ctx, &sdk.RefundCreateParams{
		PaymentIntent: &ref, Reason: sdk.String("requested_by_customer"),
	})
	if e, ok := errors.AsType[*sdk.Error](err); ok && e.Code == sdk.ErrorCodeChargeAlreadyRefunded {
		return payment.Outcome{Result: payment.RefundedCharge}, nil
	}
	if err != nil {
		return payment.Outcome{}, plain(err)
	}
	switch r.Status {
	case sdk.RefundStatusSucceeded, sdk.RefundStatusPending: // pending: the bank takes its time
		return payment.Outcome{Result: payment.RefundedCharge}, nil
	}
	return payment.Outcome{}, fmt.Errorf("refund %s is %s (%s)", r.ID, r.Status, r.FailureReason)
}

func (s *Stripe) retrieve(ctx context.Context, ref string) (*sdk.PaymentIntent, error) {
	p := &sdk.PaymentIntentRetrieveParams{}
	p.AddExpand("latest_charge")
	pi, err := s.api.V1PaymentIntents.Retrieve(ctx, ref, p)
	if err != nil {
		return nil, plain(err)
	}
	return pi, nil
}

func refunded(pi *sdk.PaymentIntent) bool { return pi.LatestCharge != nil && pi.LatestCharge.Refunded }

// outcome reads an intent that was confirmed.
func outcome(pi *sdk.PaymentIntent) (payment.Outcome, error) {
	switch pi.Status {
	case sdk.PaymentIntentStatusSucceeded:
		if refunded(pi) {
			return payment.Outcome{Result: payment.RefundedCharge}, nil
		}
		return payment.Outcome{Result: payment.Charged}, nil
	case sdk.PaymentIntentStatusCanceled:
		return payment.Outcome{Result: payment.VoidedIntent}, nil
	case sdk.PaymentIntentStatusRequiresAction:
		return payment.Outcome{Result: payment.Declined, Code: "authentication_required", Message: "Your card needs an authentication that is not possible here."}, nil
	case sdk.PaymentIntentStatusRequiresPaymentMethod:
		if e := pi.LastPaymentError; e != nil {
			return decline(e), nil
		}
		if pi.Metadata[metaUnknown] != "" {
			return payment.Outcome{Result: payment.Declined, Code: "invalid_payment_method", Message: "This payment method is not known."}, nil
		}
	}
	// Processing, for one: what comes of it is known later.
	return payment.Outcome{}, fmt.Errorf("intent is still %s", pi.Status)
}

// decline turns Stripe's error into a code for the customer. Stripe asks not to
// tell who uses a card that was reported lost, stolen or fraudulent.
func decline(e *sdk.Error) payment.Outcome {
	code := string(e.Code)
	if e.Code == sdk.ErrorCodeCardDeclined {
		switch e.DeclineCode {
		case "", sdk.DeclineCodeGenericDecline, sdk.DeclineCodeFraudulent, sdk.DeclineCodeLostCard, sdk.DeclineCodeStolenCard,
			sdk.DeclineCodeMerchantBlacklist, sdk.DeclineCodePickupCard:
		default:
			code = string(e.DeclineCode)
		}
	}
	return payment.Outcome{Result: payment.Declined, Code: code, Message: e.Msg}
}

// refused says that Stripe understood the call and did not do it, so that the
// intent's state is the answer. 409 and 429 say "not now" instead.
func refused(err error) bool {
	e, ok := errors.AsType[*sdk.Error](err)
	return ok && (e.HTTPStatusCode == http.StatusBadRequest || e.HTTPStatusCode == http.StatusPaymentRequired)
}

// plain is err without the intent and its client secret, which the library's
// text contains.
func plain(err error) error {
	e, ok := errors.AsType[*sdk.Error](err)
	if !ok {
		return err
	}
	return fmt.Errorf("stripe answered %d %s %s: %s (request %s)", e.HTTPStatusCode, e.Type, e.Code, e.Msg, e.RequestID)
}
