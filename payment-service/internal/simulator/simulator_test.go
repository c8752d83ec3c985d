package simulator_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTokensDecide(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]payment.Outcome{
		"pm_card_visa":                                 {Result: payment.Charged},
		"pm_card_mastercard":                           {Result: payment.Charged},
		"pm_card_visa_chargeDeclined":                  {Result: payment.Declined, Code: "card_declined", Message: "Your card was declined."},
		"pm_card_visa_chargeDeclinedInsufficientFunds": {Result: payment.Declined, Code: "insufficient_funds", Message: "Your card has insufficient funds."},
		"pm_card_chargeDeclinedExpiredCard":            {Result: payment.Declined, Code: "expired_card", Message: "Your card has expired."},
		"pm_card_":                                     {Result: payment.Declined, Code: "invalid_payment_method", Message: "This payment method is not known."},
		"":                                             {Result: payment.Declined, Code: "invalid_payment_method", Message: "This payment method is not known."},
	} {
		i := simulator.Intent{Method: method, State: simulator.Created}
		for range 3 {
			got, err := i.Confirm()
			require.NoError(t, err)
			require.Equal(t, want, got, "%q", method)
		}
		require.Equal(t, 1, i.Confirms, "what was decided is not decided again")
	}
}

func TestTokensThatFail(t *testing.T) {
	t.Parallel()
	i := simulator.Intent{Method: "tok_provider_timeout", State: simulator.Created}
	for range 10 {
		_, err := i.Confirm()
		require.ErrorIs(t, err, simulator.ErrTimeout)
		require.Equal(t, simulator.Created, i.State)
	}
	require.Equal(t, payment.VoidedIntent, i.Void().Result)

	i = simulator.Intent{Method: "tok_provider_error_twice", State: simulator.Created}
	for range 2 {
		_, err := i.Confirm()
		require.ErrorIs(t, err, simulator.ErrUnavailable)
	}
	out, err := i.Confirm()
	require.NoError(t, err)
	require.Equal(t, payment.Charged, out.Result)

	i = simulator.Intent{Method: "tok_provider_answer_lost", State: simulator.Created}
	_, err = i.Confirm()
	require.ErrorIs(t, err, simulator.ErrTimeout)
	out, err = i.Confirm()
	require.NoError(t, err)
	require.Equal(t, payment.Charged, out.Result)
}

func setup(t *testing.T, latency time.Duration) (*simulator.Simulator, *pgxpool.Pool) {
	t.Helper()
	t.Parallel()
	pool := pgtest.New(t, payment.Migrations)
	return simulator.New(pool, latency), pool
}

func count(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func TestTheBooksShowWhatWasDone(t *testing.T) {
	s, pool := setup(t, 0)
	key := uuid.NewString()
	ref, err := s.Create(t.Context(), key, 1900, "EUR", simulator.Visa)
	require.NoError(t, err)
	again, err := s.Create(t.Context(), key, 1900, "EUR", simulator.Visa)
	require.NoError(t, err)
	require.Equal(t, ref, again, "one intent for a key")
	require.Zero(t, count(t, pool, `select count(*) from simulator.charges`))

	var g errgroup.Group
	for range 8 {
		g.Go(func() error { _, err := s.Confirm(t.Context(), ref); return err })
	}
	require.NoError(t, g.Wait())
	for range 8 {
		g.Go(func() error { _, err := s.Void(t.Context(), ref); return err })
	}
	require.NoError(t, g.Wait())
	out, err := s.Confirm(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.RefundedCharge, out.Result)

	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.charges where key = $1 and ref = $2 and amount = 1900 and currency = 'EUR'`, key, ref))
	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.voids where key = $1 and kind = 'refund' and amount = 1900`, key))
	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.voids`))
	require.Equal(t, 2+8+8+1, count(t, pool, `select count(*) from simulator.calls where key = $1`, key), "every call is noted")
	require.Equal(t, 1, count(t, pool, `select confirms from simulator.intents`))
}

func TestAVoidedIntentIsNeverCharged(t *testing.T) {
	s, pool := setup(t, 0)
	ref, err := s.Create(t.Context(), "k", 1900, "EUR", simulator.Visa)
	require.NoError(t, err)
	out, err := s.Void(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.VoidedIntent, out.Result)
	out, err = s.Confirm(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, payment.VoidedIntent, out.Result)
	require.Zero(t, count(t, pool, `select count(*) from simulator.charges`))
	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.voids where kind = 'cancel' and amount = 0`))
}

// Whoever is told of a failure finds what was done in the books: it was
// committed first.
func TestWhatFailsIsInTheBooksToo(t *testing.T) {
	s, pool := setup(t, 0)
	ref, err := s.Create(t.Context(), "k", 1900, "EUR", simulator.AnswerLost)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.Confirm(ctx, ref) // gives up before the answer would come
	require.ErrorIs(t, err, simulator.ErrTimeout)
	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.charges where ref = $1`, ref))
	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.calls where result = $1`, simulator.ErrTimeout.Error()))

	_, err = s.Void(t.Context(), "sim_nowhere")
	require.ErrorContains(t, err, "no intent")
}

func TestLatencyIsTakenForEachCall(t *testing.T) {
	s, pool := setup(t, 60*time.Millisecond)
	started := time.Now()
	ref, err := s.Create(t.Context(), "k", 1900, "EUR", simulator.Visa)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(started), 60*time.Millisecond)

	// A caller that gives up in between finds it done later.
	slow := simulator.New(pool, 2*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 1900*time.Millisecond)
	defer cancel()
	_, err = slow.Confirm(ctx, ref)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, 1, count(t, pool, `select count(*) from simulator.charges`))
}

// Calls that come together share a transaction, and nothing else.
func TestCallsAtTheSameTimeDoNotMeet(t *testing.T) {
	s, pool := setup(t, 0)
	methods := []string{simulator.Visa, "pm_card_visa_chargeDeclined", "pm_card_", simulator.Mastercard, "nowhere"}
	var g errgroup.Group
	for i := range 40 {
		method := methods[i%len(methods)]
		g.Go(func() error {
			if method == "nowhere" {
				if _, err := s.Confirm(t.Context(), fmt.Sprintf("sim_%d", i)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf(`"sim_%d"`, i)) {
					return fmt.Errorf("an intent that does not exist: %w", err)
				}
				return nil
			}
			ref, err := s.Create(t.Context(), uuid.NewString(), 100, "EUR", method)
			if err != nil {
				return err
			}
			got, err := s.Confirm(t.Context(), ref)
			if charged := strings.HasSuffix(method, "card_visa") || method == simulator.Mastercard; err != nil || (got.Result == payment.Charged) != charged {
				return fmt.Errorf("%s: %v %w", method, got, err)
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.Equal(t, 16, count(t, pool, `select count(*) from simulator.charges c join simulator.intents i using (ref, key) where i.method in ('pm_card_visa', 'pm_card_mastercard')`))
	require.Equal(t, 16, count(t, pool, `select count(*) from simulator.charges`))
	require.Equal(t, 64, count(t, pool, `select count(*) from simulator.calls`))
}
