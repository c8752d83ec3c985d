package stripe_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/stripe"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t *testing.T) (*front, *stripe.Stripe) {
	t.Helper()
	t.Parallel()
	f, base := newFront(t)
	return f, stripe.New(secret, base+"/")
}

func create(t *testing.T, s *stripe.Stripe, method string) string {
	t.Helper()
	ref, err := s.Create(t.Context(), "order-1", 1900, "EUR", method)
	require.NoError(t, err)
	require.NotEmpty(t, ref)
	return ref
}

// stripe-mock as it is: every request is one that Stripe's description allows,
// every answer one that the adapter reads.
func TestRequestsAreWhatStripeDescribes(t *testing.T) {
	t.Parallel()
	mock, err := newMock()
	require.NoError(t, err)
	srv := httptest.NewServer(http.HandlerFunc(mock.HandleRequest))
	t.Cleanup(srv.Close)
	s := stripe.New(secret, srv.URL)
	ref := create(t, s, "pm_card_visa")
	out, err := s.Confirm(t.Context(), ref) // its fixture has a payment error
	require.NoError(t, err)
	require.Equal(t, payment.Declined, out.Result)
	out, err = s.Void(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.VoidedIntent, out.Result)

	_, err = stripe.New("no-key", srv.URL).Create(t.Context(), "k", 1900, "EUR", "pm_card_visa")
	require.ErrorContains(t, err, "401")
}

func TestAnIntentIsChargedOnce(t *testing.T) {
	f, s := setup(t)
	ref := create(t, s, "pm_card_visa")
	require.Equal(t, "order-1", f.get(ref).meta["order_id"])
	require.Zero(t, f.get(ref).charges, "creating moves no money")
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			out, err := s.Confirm(t.Context(), ref)
			if err == nil && out.Result != payment.Charged {
				err = fmt.Errorf("result %s", out.Result)
			}
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.Equal(t, 1, f.get(ref).charges)
}

func TestADeclineIsFinalAndTold(t *testing.T) {
	f, s := setup(t)
	for method, code := range map[string]string{
		"pm_card_visa_chargeDeclined":                  "card_declined",
		"pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
		"pm_card_chargeDeclinedExpiredCard":            "expired_card",
		"pm_card_visa_chargeDeclinedStolenCard":        "card_declined", // Stripe: do not tell
		"pm_card_authenticationRequired":               "authentication_required",
	} {
		ref := create(t, s, method)
		for range 3 {
			out, err := s.Confirm(t.Context(), ref)
			require.NoError(t, err, method)
			require.Equal(t, payment.Declined, out.Result)
			require.Equal(t, code, out.Code)
			require.NotEmpty(t, out.Message)
		}
		require.Equal(t, 1, f.get(ref).attempts, "not tried again")
	}
}

func TestAnUnknownMethodIsADecline(t *testing.T) {
	f, s := setup(t)
	ref := create(t, s, "unknown_method")
	out, err := s.Confirm(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.Outcome{Result: payment.Declined, Code: "invalid_payment_method", Message: "This payment method is not known."}, out)
	require.Zero(t, f.get(ref).attempts)
}

func TestVoidKeepsNoMoneyWhateverWasBefore(t *testing.T) {
	for name, c := range map[string]struct {
		method  string
		confirm bool
		want    payment.Result
		refunds int
	}{
		"not confirmed":   {"pm_card_visa", false, payment.VoidedIntent, 0},
		"charged":         {"pm_card_visa", true, payment.RefundedCharge, 1},
		"declined":        {"pm_card_visa_chargeDeclined", true, payment.VoidedIntent, 0},
		"unknown method":  {"unknown_method", false, payment.VoidedIntent, 0},
		"unknown, failed": {"unknown_method", true, payment.VoidedIntent, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := setup(t)
			ref := create(t, s, c.method)
			if c.confirm {
				_, err := s.Confirm(t.Context(), ref)
				require.NoError(t, err)
			}
			for range 3 {
				out, err := s.Void(t.Context(), ref)
				require.NoError(t, err)
				require.Equal(t, c.want, out.Result)
				out, err = s.Confirm(t.Context(), ref)
				require.NoError(t, err)
				require.Equal(t, c.want, out.Result, "and a confirm that is late finds it so")
			}
			require.Equal(t, c.refunds, f.get(ref).refunds)
			require.Equal(t, c.refunds, f.get(ref).charges)
		})
	}
}

func TestALostAnswerIsFoundOut(t *testing.T) {
	f, s := setup(t)
	ref := create(t, s, "pm_card_visa")
	lose := func(what string) { // the effect happens, its answer does not come
		f.after = func(operation string) int {
			if operation == what {
				return http.StatusInternalServerError
			}
			return 0
		}
	}
	lose("confirm")
	_, err := s.Confirm(t.Context(), ref)
	require.ErrorContains(t, err, "500")
	out, err := s.Confirm(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.Charged, out.Result)
	lose("refund")
	_, err = s.Void(t.Context(), ref)
	require.ErrorContains(t, err, "500")
	out, err = s.Void(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.RefundedCharge, out.Result)
	require.Equal(t, 1, f.get(ref).charges)
	require.Equal(t, 1, f.get(ref).refunds)
}

func TestNotNowIsAnError(t *testing.T) {
	f, s := setup(t)
	ref := create(t, s, "pm_card_visa")
	for _, status := range []int{http.StatusTooManyRequests, http.StatusConflict, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusUnauthorized} {
		for _, at := range []string{"retrieve", "confirm", "cancel"} {
			f.before = func(operation string) int {
				if operation == at {
					return status
				}
				return 0
			}
			if at != "cancel" {
				_, err := s.Confirm(t.Context(), ref)
				require.Error(t, err, "%d at %s", status, at)
			}
			if at != "confirm" {
				_, err := s.Void(t.Context(), ref)
				require.Error(t, err, "%d at %s", status, at)
			}
		}
		f.before = func(string) int { return status }
		_, err := s.Create(t.Context(), "k", 1, "EUR", "pm_card_visa")
		require.Error(t, err)
	}
	require.Equal(t, "requires_confirmation", f.get(ref).status)
	f.before = nil
	f.set(ref, func(in *intent) { in.status = "processing" })
	_, err := s.Confirm(t.Context(), ref)
	require.ErrorContains(t, err, "processing")
	_, err = s.Void(t.Context(), ref)
	require.Error(t, err)
	_, err = s.Confirm(t.Context(), "pi_nowhere")
	require.ErrorContains(t, err, "404")
}

// Another process acts between our look at an intent and what we do about it.
func TestAnIntentThatChangesUnderOurHands(t *testing.T) {
	charge := func(in *intent) { in.status, in.charges = "succeeded", 1 }
	voidIt := func(in *intent) { in.status = "canceled" }
	for name, c := range map[string]struct {
		call   string
		change func(*intent)
		want   payment.Result
		kept   int
	}{
		"confirm, charged meanwhile": {"confirm", charge, payment.Charged, 1},
		"confirm, voided meanwhile":  {"confirm", voidIt, payment.VoidedIntent, 0},
		"confirm, charged and refunded": {"confirm", func(in *intent) {
			charge(in)
			in.refunded, in.refunds = true, 1
		}, payment.RefundedCharge, 0},
		"cancel, charged meanwhile": {"cancel", charge, payment.RefundedCharge, 0},
		"cancel, voided meanwhile":  {"cancel", voidIt, payment.VoidedIntent, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f, s := setup(t)
			ref := create(t, s, "pm_card_visa")
			f.before = func(operation string) int {
				if operation == c.call {
					f.set(ref, c.change)
				}
				return 0
			}
			call := s.Confirm
			if c.call == "cancel" {
				call = s.Void
			}
			out, err := call(t.Context(), ref)
			require.NoError(t, err)
			require.Equal(t, c.want, out.Result)
			in := f.get(ref)
			require.Equal(t, c.kept, in.charges-in.refunds)
		})
	}
}

func TestRefundsThatTakeTimeOrFail(t *testing.T) {
	f, s := setup(t)
	charged := func() string {
		ref := create(t, s, "pm_card_visa")
		_, err := s.Confirm(t.Context(), ref)
		require.NoError(t, err)
		return ref
	}
	f.refundStatus = "pending"
	out, err := s.Void(t.Context(), charged())
	require.NoError(t, err)
	require.Equal(t, payment.RefundedCharge, out.Result)

	f.refundStatus = "failed"
	_, err = s.Void(t.Context(), charged())
	require.ErrorContains(t, err, "failed")

	f.refundStatus = ""
	ref := charged()
	f.before = func(operation string) int { // somebody refunds by hand, after our look
		if operation == "refund" {
			f.set(ref, func(in *intent) { in.refunded, in.refunds = true, 1 })
		}
		return 0
	}
	out, err = s.Void(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.RefundedCharge, out.Result)
	require.Equal(t, 1, f.get(ref).refunds)
}

// Errors end up in logs and in headers of dead letters.
func TestErrorsHideTheClientSecret(t *testing.T) {
	f, s := setup(t)
	ref := create(t, s, "pm_card_visa")
	f.set(ref, func(in *intent) { in.status = "processing" })
	_, err := s.Void(t.Context(), ref)
	require.ErrorContains(t, err, "payment_intent_unexpected_state")
	require.NotContains(t, err.Error(), "hush")
	require.NotContains(t, err.Error(), secret)
}

// The whole of a payment's life with Stripe as its provider.
func TestTheServiceChargesAndRefundsThroughStripe(t *testing.T) {
	f, s := setup(t)
	pool := pgtest.New(t, payment.Migrations)
	db := outbox.NewDB(pool, nil)
	svc, err := payment.NewService(db, s, payment.Config{ProviderName: stripe.Name, ProviderTimeout: 5 * time.Second, RefundRetry: time.Minute},
		slog.New(slog.DiscardHandler), nil, time.Now)
	require.NoError(t, err)
	o := event.OrderCreated{OrderID: uuid.Must(uuid.NewV7()), CustomerID: uuid.Must(uuid.NewV7()), Total: 1900, Currency: "EUR", PaymentMethod: "pm_card_visa"}
	out, err := svc.Charge(t.Context(), o)
	require.NoError(t, err)
	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error { return svc.ApplyCharge(t.Context(), tx, o, out) }))
	owner := payment.Actor{ID: o.CustomerID}
	list, err := svc.OfOrder(t.Context(), owner, o.OrderID)
	require.NoError(t, err)
	require.Equal(t, payment.Completed, list[0].Status)
	require.Equal(t, stripe.Name, list[0].Provider)
	require.Equal(t, 1, f.get(list[0].ProviderRef).charges)

	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
		return svc.ApplyCancel(t.Context(), tx, event.OrderCancelled{OrderID: o.OrderID})
	}))
	r := event.PaymentRefundRequested{OrderID: o.OrderID}
	out, err = svc.Void(t.Context(), r)
	require.NoError(t, err)
	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error { return svc.ApplyVoid(t.Context(), tx, r, out) }))
	p, err := svc.Get(t.Context(), owner, list[0].ID)
	require.NoError(t, err)
	require.Equal(t, payment.Refunded, p.Status)
	require.Equal(t, 1, f.get(p.ProviderRef).refunds)
}
