package payment_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// errKilled ends a handler where its process would have been killed.
var errKilled = errors.New("killed")

// A customer cancels at every moment of a charge, and the refund runs at once
// or only after the charge has ended: no money is kept.
func TestCancellingAtAnyMomentOfAChargeKeepsNoMoney(t *testing.T) {
	for _, c := range []struct {
		moment    string
		charges   int
		told      []string // refund at once
		lateTold  []string // refund after the charge
		end       payment.Status
		lateOther int // charges when the refund comes late, if they differ
	}{
		{moment: "before order.created", end: payment.Voided, told: []string{}, lateTold: []string{}},
		{moment: "before create", end: payment.Voided, told: []string{tRequested}, lateTold: []string{tRequested}},
		{moment: "after create", end: payment.Voided, told: []string{tRequested}, lateTold: []string{tRequested}},
		{moment: "before confirm", end: payment.Voided, told: []string{tRequested}, lateTold: []string{tRequested, tCompleted, tRequested, tRefunded}, lateOther: 1},
		{moment: "after confirm", charges: 1, end: payment.Refunded, told: []string{tRequested, tCompleted, tRefunded}, lateTold: []string{tRequested, tCompleted, tRequested, tRefunded}},
		{moment: "after apply", charges: 1, end: payment.Refunded, told: []string{tCompleted, tRequested, tRefunded}, lateTold: []string{tCompleted, tRequested, tRefunded}},
	} {
		for _, late := range []bool{false, true} {
			name := c.moment + ", refund at once"
			charges, told, end := c.charges, c.told, c.end
			if late {
				name = c.moment + ", refund late"
				told = c.lateTold
				if c.lateOther > 0 {
					charges, end = c.lateOther, payment.Refunded
				}
			}
			t.Run(name, func(t *testing.T) {
				f := setup(t)
				o := order(simulator.Visa)
				cancel := func() {
					f.cancel(o)
					if !late {
						f.release(o)
					}
				}
				at := func(when string) func(string) error {
					return func(call string) error {
						if when+call == c.moment {
							cancel()
						}
						return nil
					}
				}
				f.provider.before, f.provider.after = at("before "), at("after ")
				if c.moment == "before order.created" {
					f.cancel(o)
				}
				f.created(o)
				if c.moment == "after apply" {
					cancel()
				}
				f.release(o) // one more changes nothing where it has ended
				f.release(o)
				require.Equal(t, end, f.status(o))
				require.Equal(t, told, f.told(o))
				f.books(o, charges, 0)
				f.created(o) // and so does a late order.created
				f.cancel(o)
				require.Equal(t, told, f.told(o))
				f.books(o, charges, 0)
			})
		}
	}
}

// The process is killed before or after each call, with or without a
// cancellation afterwards.
func TestAKillAtAnyMomentOfAChargeLosesNoMoney(t *testing.T) {
	for _, moment := range []string{"before create", "after create", "before confirm", "after confirm", "before apply"} {
		for _, cancels := range []bool{false, true} {
			name := moment
			if cancels {
				name += ", then cancelled"
			}
			t.Run(name, func(t *testing.T) {
				f := setup(t)
				o := order(simulator.Visa)
				kill := func(when string) func(string) error {
					return func(call string) error {
						if when+call == moment {
							return errKilled
						}
						return nil
					}
				}
				f.provider.before, f.provider.after = kill("before "), kill("after ")
				_, err := f.Charge(t.Context(), o)
				if moment == "before apply" {
					require.NoError(t, err) // its transaction never commits
				} else {
					require.ErrorIs(t, err, errKilled)
				}
				f.provider.before, f.provider.after = nil, nil
				if !cancels {
					f.created(o) // delivered again
					require.Equal(t, payment.Completed, f.status(o))
					require.Equal(t, []string{tCompleted}, f.told(o))
					f.books(o, 1, o.Total)
					return
				}
				f.cancel(o)
				f.release(o)
				f.created(o)
				require.Contains(t, []payment.Status{payment.Voided, payment.Refunded}, f.status(o))
				charges := 0
				if f.status(o) == payment.Refunded {
					charges = 1
					require.Equal(t, []string{tRequested, tCompleted, tRefunded}, f.told(o), "who was charged learns of both")
				}
				f.books(o, charges, 0)
			})
		}
	}
}

// The refund's process is killed around Void; the order is refunded once.
func TestAKillDuringARefundRefundsOnce(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	f.created(o)
	f.cancel(o)
	r := event.PaymentRefundRequested{OrderID: o.OrderID}
	f.provider.before = func(string) error { return errKilled }
	_, err := f.Void(t.Context(), r)
	require.ErrorIs(t, err, errKilled)
	f.provider.before, f.provider.after = nil, func(string) error { return errKilled }
	_, err = f.Void(t.Context(), r)
	require.ErrorIs(t, err, errKilled)
	f.provider.after = nil
	f.books(o, 1, 0)
	require.Equal(t, payment.RefundPending, f.status(o))
	f.release(o)
	require.Equal(t, []string{tCompleted, tRequested, tRefunded}, f.told(o))
	f.books(o, 1, 0)
	require.Equal(t, 1, f.count(`select count(*) from simulator.voids`))
}

// A provider that has forgotten the key makes two intents for two processes:
// one of them is charged, and both processes learn of it.
func TestTwoIntentsAreOneCharge(t *testing.T) {
	f := setup(t)
	f.provider.forgetful = true
	o := order(simulator.Visa)
	var second payment.Outcome
	f.provider.after = func(call string) error {
		if call != "create" {
			return nil
		}
		f.provider.after = nil
		var err error
		second, err = f.Charge(t.Context(), o)
		return err
	}
	first, err := f.Charge(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, payment.Charged, first.Result)
	require.Equal(t, payment.Charged, second.Result)
	f.applyCharge(o, first)
	f.applyCharge(o, second)
	require.Equal(t, []string{tCompleted}, f.told(o))
	require.Equal(t, 2, f.count(`select count(*) from simulator.intents`))
	require.Equal(t, 1, f.count(`select count(*) from simulator.charges`))
}

// A zombie that confirmed before it lost its partition writes after somebody
// else has refunded.
func TestALateWriteChangesNothing(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	zombie, err := f.Charge(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, payment.Charged, zombie.Result)
	f.cancel(o)
	f.release(o)
	f.applyCharge(o, zombie)
	require.Equal(t, payment.Refunded, f.status(o))
	require.Equal(t, []string{tRequested, tCompleted, tRefunded}, f.told(o))
	f.books(o, 1, 0)
}

// Many processes, all at once, and the cancellation between them, on a real
// database: whoever wins, the books and the rows agree.
func TestProcessesAtOnce(t *testing.T) {
	f := setup(t)
	const orders = 20
	for n := range orders {
		cancels := n%2 == 0
		o := order(simulator.Visa)
		var g errgroup.Group
		for range 3 {
			g.Go(func() error {
				out, err := f.Charge(t.Context(), o)
				if err != nil {
					return err
				}
				return f.db.InTx(t.Context(), func(tx *outbox.Tx) error { return f.ApplyCharge(t.Context(), tx, o, out) })
			})
		}
		if cancels {
			g.Go(func() error {
				return f.db.InTx(t.Context(), func(tx *outbox.Tx) error { return f.ApplyCancel(t.Context(), tx, cancelled(o)) })
			})
			for range 2 {
				g.Go(func() error {
					r := event.PaymentRefundRequested{OrderID: o.OrderID}
					out, err := f.Void(t.Context(), r)
					if err != nil {
						return nil //nolint:nilerr // it came before the row: the real one would come again
					}
					return f.db.InTx(t.Context(), func(tx *outbox.Tx) error { return f.ApplyVoid(t.Context(), tx, r, out) })
				})
			}
		}
		require.NoError(t, g.Wait())
		if cancels {
			f.release(o)
			require.Contains(t, []payment.Status{payment.Voided, payment.Refunded}, f.status(o))
		} else {
			require.Equal(t, payment.Completed, f.status(o))
			f.books(o, 1, o.Total)
		}
	}
	require.Zero(t, f.count(`select count(*) from (select from simulator.charges group by key having count(*) > 1) x`), "charged twice")
	require.Zero(t, f.count(`select count(*) from payments p where status in ('voided', 'refunded') and
		(select coalesce(sum(amount), 0) from simulator.charges where key = p.order_id::text)
		<> (select coalesce(sum(amount), 0) from simulator.voids where key = p.order_id::text)`), "money kept")
	require.Zero(t, f.count(`select count(*) from (select from msg.outbox where topic <> $1 group by key, topic having count(*) > 1) x`, tRequested), "told twice")
}

// order.cancelled and order.created meet at the same row, both ways round.
func TestATombstoneAndAPaymentAtTheSameTime(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	var g errgroup.Group
	holding, proceed := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(proceed) })
	defer release()
	g.Go(func() error {
		return f.db.InTx(t.Context(), func(tx *outbox.Tx) error {
			err := f.ApplyCancel(t.Context(), tx, cancelled(o)) // the tombstone is written, not committed
			close(holding)
			<-proceed
			return err
		})
	})
	<-holding
	var out payment.Outcome
	g.Go(func() (err error) {
		out, err = f.Charge(t.Context(), o) // waits for the tombstone
		return err
	})
	require.Eventually(t, func() bool {
		return f.count(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
	}, 5*time.Second, 5*time.Millisecond)
	release()
	require.NoError(t, g.Wait())
	require.Equal(t, payment.Outcome{}, out)
	require.Equal(t, payment.Voided, f.status(o))
	f.books(o, 0, 0)
}
