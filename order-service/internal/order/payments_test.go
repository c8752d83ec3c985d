package order

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// The whole table of what payments and people can do to each other's order,
// each in every order of arrival.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	w := setup(t)
	cancelledBy := func(reason string) string { return `order.cancelled {"from":"pending","reason":"` + reason + `"}` }
	cancelledAfter := `order.cancelled {"from":"confirmed","reason":"customer"}`
	declined := `order.cancelled {"code":"card_declined","from":"pending","reason":"payment_failed"}`
	cancel := func(o Order) error {
		_, err := w.Cancel(t.Context(), Actor{ID: o.CustomerID}, o.ID)
		return err
	}
	type step = func(Order) error
	cases := map[string]struct {
		steps    []step
		status   Status
		timeline []string
		topics   []string
	}{
		"payment completes": {
			[]step{w.completed}, Confirmed, []string{tlCompleted, tlConfirmed}, []string{"order.status_changed"},
		},
		"payment completes twice": {
			[]step{w.completed, w.completed}, Confirmed, []string{tlCompleted, tlConfirmed}, []string{"order.status_changed"},
		},
		"payment declined": {
			[]step{w.failed}, Cancelled, []string{tlFailed, declined}, []string{"order.cancelled"},
		},
		"payment declined twice": {
			[]step{w.failed, w.failed}, Cancelled, []string{tlFailed, declined}, []string{"order.cancelled"},
		},
		"cancelled before the charge": {
			[]step{cancel, w.completed, w.refunded}, Cancelled, []string{cancelledBy("customer"), tlCompleted, tlRefunded}, []string{"order.cancelled"},
		},
		"cancelled before the charge, refund read first": {
			[]step{cancel, w.refunded, w.completed}, Cancelled, []string{cancelledBy("customer"), tlRefunded, tlCompleted}, []string{"order.cancelled"},
		},
		"cancelled after the charge": {
			[]step{w.completed, cancel, w.refunded}, Cancelled, []string{tlCompleted, tlConfirmed, cancelledAfter, tlRefunded}, []string{"order.status_changed", "order.cancelled"},
		},
		"cancelled, then declined": {
			[]step{cancel, w.failed}, Cancelled, []string{cancelledBy("customer"), tlFailed}, []string{"order.cancelled"},
		},
		"failed after completed changes nothing": {
			[]step{w.completed, w.failed}, Confirmed, []string{tlCompleted, tlConfirmed, tlFailed}, []string{"order.status_changed"},
		},
		"completed after failed changes nothing": {
			[]step{w.failed, w.completed}, Cancelled, []string{tlFailed, declined, tlCompleted}, []string{"order.cancelled"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := w.place()
			for _, s := range c.steps {
				require.NoError(t, s(o))
			}
			got := w.get(o.ID)
			require.Equal(t, c.status, got.Status)
			require.Equal(t, append([]string{tlCreated}, c.timeline...), w.timeline(o.ID))
			require.Equal(t, append([]string{"order.created"}, c.topics...), w.topics(o.ID))
			if got.Status == Cancelled {
				require.NotEmpty(t, got.CancelReason)
			}
		})
	}
}

// A batch reads its orders once, ahead: what is later in it sees what was before.
func TestFactsOfOneOrderInOneBatch(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx := t.Context()
	a, b, c := w.place(), w.place(), w.place()
	completed := func(o Order) event.PaymentCompleted {
		return event.PaymentCompleted{PaymentID: somePayment, OrderID: o.ID, Amount: o.Total, Currency: o.Currency}
	}
	failed := func(o Order) event.PaymentFailed {
		return event.PaymentFailed{PaymentID: somePayment, OrderID: o.ID, Amount: o.Total, Currency: o.Currency, Code: "card_declined", Message: "Declined."}
	}
	require.NoError(t, w.db.InTx(ctx, func(tx *outbox.Tx) error {
		require.NoError(t, w.Lock(ctx, tx, []uuid.UUID{a.ID, uuid.Max, b.ID}))
		require.NoError(t, w.Lock(ctx, tx, []uuid.UUID{b.ID, c.ID}), "another topic of the batch")
		require.NoError(t, w.ApplyPaymentCompleted(ctx, tx, event.New("payment-service", completed(a)), completed(a)))
		require.NoError(t, w.ApplyPaymentFailed(ctx, tx, event.New("payment-service", failed(b)), failed(b)))
		require.NoError(t, w.ApplyPaymentFailed(ctx, tx, event.New("payment-service", failed(a)), failed(a)))
		require.NoError(t, w.ApplyPaymentCompleted(ctx, tx, event.New("payment-service", completed(b)), completed(b)))
		missing := completed(Order{ID: uuid.Max, Total: 1, Currency: "EUR"})
		var mismatch *MismatchError
		require.ErrorAs(t, w.ApplyPaymentCompleted(ctx, tx, event.New("payment-service", missing), missing), &mismatch)
		return nil
	}))
	require.Equal(t, Confirmed, w.get(a.ID).Status)
	require.Equal(t, []string{tlCreated, tlCompleted, tlConfirmed, tlFailed}, w.timeline(a.ID))
	require.Equal(t, []string{"order.created", "order.status_changed"}, w.topics(a.ID))
	require.Equal(t, Cancelled, w.get(b.ID).Status)
	require.Equal(t, []string{"order.created", "order.cancelled"}, w.topics(b.ID))
	require.Equal(t, c, w.get(c.ID))
}

// Orders that a batch has read are locked: nobody changes them before it ends.
func TestABatchLocksItsOrders(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx := t.Context()
	o := w.place()
	cancelled := make(chan error, 1)
	require.NoError(t, w.db.InTx(ctx, func(tx *outbox.Tx) error {
		if err := w.Lock(ctx, tx, []uuid.UUID{o.ID}); err != nil {
			return err
		}
		go func() {
			_, err := w.Cancel(ctx, Actor{ID: someCustomer}, o.ID)
			cancelled <- err
		}()
		require.Eventually(t, func() bool {
			var n int
			require.NoError(t, w.db.Pool.QueryRow(ctx, `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`).Scan(&n))
			return n == 1
		}, 10*time.Second, 5*time.Millisecond)
		p := event.PaymentCompleted{PaymentID: somePayment, OrderID: o.ID, Amount: o.Total, Currency: o.Currency}
		return w.ApplyPaymentCompleted(ctx, tx, event.New("payment-service", p), p)
	}))
	require.NoError(t, <-cancelled)
	require.Equal(t, []string{tlCreated, tlCompleted, tlConfirmed, `order.cancelled {"from":"confirmed","reason":"customer"}`}, w.timeline(o.ID))
}

func TestPaymentForAnotherOrderOrAmountIsNoPayment(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	for name, wrong := range map[string]Order{
		"unknown order":  {ID: uuid.Max, Total: o.Total, Currency: o.Currency},
		"other amount":   {ID: o.ID, Total: o.Total - 1, Currency: o.Currency},
		"other currency": {ID: o.ID, Total: o.Total, Currency: "INR"},
	} {
		for _, step := range []func(Order) error{w.completed, w.failed, w.refunded} {
			var mismatch *MismatchError
			require.ErrorAs(t, step(wrong), &mismatch, name)
		}
	}
	require.Equal(t, o, w.get(o.ID))
	require.Equal(t, []string{tlCreated}, w.timeline(o.ID))
}

// A customer cancels at the very moment at which the payment completes: either
// may come first, and both ends are consistent.
func TestCancelRacesPayment(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for range 15 {
		o := w.place()
		var g errgroup.Group
		g.Go(func() error { return w.completed(o) })
		g.Go(func() error {
			_, err := w.Cancel(t.Context(), Actor{ID: someCustomer}, o.ID)
			return err
		})
		g.Go(func() error {
			_, err := w.CancelOverdue(t.Context())
			return err
		})
		require.NoError(t, g.Wait())
		require.Equal(t, Cancelled, w.get(o.ID).Status)
		if w.topics(o.ID)[1] == "order.status_changed" {
			require.Equal(t, []string{tlCreated, tlCompleted, tlConfirmed, `order.cancelled {"from":"confirmed","reason":"customer"}`}, w.timeline(o.ID))
			require.Equal(t, []string{"order.created", "order.status_changed", "order.cancelled"}, w.topics(o.ID))
		} else {
			require.Equal(t, []string{tlCreated, `order.cancelled {"from":"pending","reason":"customer"}`, tlCompleted}, w.timeline(o.ID))
			require.Equal(t, []string{"order.created", "order.cancelled"}, w.topics(o.ID))
		}
	}
}

// The database itself holds the invariant, whatever the code above it does.
func TestTheDatabaseRefusesASecondCancellation(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	cancelled, err := w.Cancel(t.Context(), Actor{ID: someCustomer}, o.ID)
	require.NoError(t, err)
	_, err = w.db.Pool.Exec(t.Context(), `insert into timeline (order_id, seq, at, kind, detail, event_id)
		values ($1, 9, now(), 'order.cancelled', '{}', $2)`, cancelled.ID, uuid.Max)
	require.ErrorContains(t, err, "timeline_once")
}
