package payment_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/event"
)

func (f fixture) sweep(want int) {
	f.t.Helper()
	n, err := f.SweepRefunds(f.t.Context())
	require.NoError(f.t, err)
	require.Equal(f.t, want, n)
}

// The provider is away for a day, every request ends as a dead letter: the
// money goes back all the same, without a flood of requests.
func TestARefundOutlivesADayWithoutItsProvider(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	f.created(o)
	f.cancel(o)
	away := errors.New("provider is away")
	f.provider.before = func(string) error { return away }
	asked := 0
	for range 24 * 60 {
		f.clock.add(time.Minute)
		n, err := f.SweepRefunds(t.Context())
		require.NoError(t, err)
		if asked += n; n > 0 {
			_, err := f.Void(t.Context(), event.PaymentRefundRequested{OrderID: o.OrderID})
			require.ErrorIs(t, err, away)
		}
	}
	require.Greater(t, asked, 20)
	require.Less(t, asked, 35, "about one an hour once it has doubled often enough")
	require.Equal(t, asked+1, f.count(`select count(distinct event_id) from msg.outbox where topic = $1`, tRequested), "each under an id of its own")
	f.books(o, 1, o.Total)

	f.provider.before = nil
	f.clock.add(time.Hour)
	f.sweep(1)
	f.release(o)
	require.Equal(t, payment.Refunded, f.status(o))
	f.books(o, 1, 0)
	f.clock.add(24 * time.Hour)
	f.sweep(0)
}

func TestAVoidThatGotLostIsAskedForAgain(t *testing.T) {
	f := setup(t)
	o := order(simulator.Timeout)
	_, err := f.Charge(t.Context(), o)
	require.ErrorIs(t, err, simulator.ErrTimeout)
	f.cancel(o)
	f.sweep(0)
	f.clock.add(config.RefundRetry)
	f.sweep(1)
	f.sweep(0)
	f.release(o)
	f.clock.add(24 * time.Hour)
	f.sweep(0)
	require.Equal(t, []string{tRequested, tRequested}, f.told(o))
}

// Replicas share the work: nothing is asked for twice.
func TestSweepersDoNotRepeatEachOther(t *testing.T) {
	f := setup(t)
	const orders = 150 // more than one transaction takes
	for range orders {
		o := order(simulator.Visa)
		f.created(o)
		f.cancel(o)
	}
	f.clock.add(config.RefundRetry)
	var g errgroup.Group
	for range 4 {
		g.Go(func() error { _, err := f.SweepRefunds(t.Context()); return err })
	}
	require.NoError(t, g.Wait())
	f.sweep(0)
	require.Equal(t, 2*orders, f.count(`select count(*) from msg.outbox where topic = $1`, tRequested))
}
