package payment_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var config = payment.Config{ProviderName: simulator.Name, ProviderTimeout: 5 * time.Second, RefundRetry: time.Minute}

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// between is the simulator with something happening around its calls.
type between struct {
	payment.Provider
	before, after func(call string) error // nil: nothing; an error is what the caller gets
	forgetful     bool                    // a second Create for a key makes a second intent
}

func (b *between) around(call string, do func() error) error {
	if b.before != nil {
		if err := b.before(call); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if b.after != nil {
		return b.after(call)
	}
	return nil
}

func (b *between) Create(ctx context.Context, key string, amount int64, currency, method string) (ref string, err error) {
	if b.forgetful {
		key += " " + uuid.NewString()
	}
	err = b.around("create", func() error {
		var err error
		ref, err = b.Provider.Create(ctx, key, amount, currency, method)
		return err
	})
	return ref, err
}

func (b *between) Confirm(ctx context.Context, ref string) (o payment.Outcome, err error) {
	err = b.around("confirm", func() error {
		var err error
		o, err = b.Provider.Confirm(ctx, ref)
		return err
	})
	return o, err
}

func (b *between) Void(ctx context.Context, ref string) (o payment.Outcome, err error) {
	err = b.around("void", func() error {
		var err error
		o, err = b.Provider.Void(ctx, ref)
		return err
	})
	return o, err
}

type fixture struct {
	*payment.Service
	t        *testing.T
	pool     *pgxpool.Pool
	db       *outbox.DB
	provider *between
	clock    *clock
}

func setup(t *testing.T) fixture {
	t.Helper()
	t.Parallel()
	pool := pgtest.New(t, payment.Migrations)
	own, err := postgres.Open(t.Context(), postgres.Config{URL: pool.Config().ConnString(), MaxConns: 4})
	require.NoError(t, err)
	t.Cleanup(own.Close)
	f := fixture{t: t, pool: pool, db: outbox.NewDB(pool, nil), provider: &between{Provider: simulator.New(own, 0)}, clock: &clock{now: time.Now()}}
	f.Service, err = payment.NewService(f.db, f.provider, config, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), f.clock.Now)
	require.NoError(t, err)
	return f
}

func order(method string) event.OrderCreated {
	return event.OrderCreated{
		OrderID: uuid.Must(uuid.NewV7()), CustomerID: uuid.Must(uuid.NewV7()),
		Total: 1900, Currency: "EUR", PaymentMethod: method,
	}
}

func cancelled(o event.OrderCreated) event.OrderCancelled {
	return event.OrderCancelled{OrderID: o.OrderID, CustomerID: o.CustomerID, Reason: "customer"}
}

func (f fixture) tx(fn func(tx *outbox.Tx) error) {
	f.t.Helper()
	require.NoError(f.t, f.db.InTx(f.t.Context(), fn))
}

func (f fixture) applyCharge(o event.OrderCreated, out payment.Outcome) {
	f.t.Helper()
	f.tx(func(tx *outbox.Tx) error { return f.ApplyCharge(f.t.Context(), tx, o, out) })
}

// created handles order.created as the consumer does.
func (f fixture) created(o event.OrderCreated) {
	f.t.Helper()
	out, err := f.Charge(f.t.Context(), o)
	require.NoError(f.t, err)
	f.applyCharge(o, out)
}

func (f fixture) cancel(o event.OrderCreated) {
	f.t.Helper()
	f.tx(func(tx *outbox.Tx) error { return f.ApplyCancel(f.t.Context(), tx, cancelled(o)) })
}

// release handles payment.refund_requested as the consumer does.
func (f fixture) release(o event.OrderCreated) {
	f.t.Helper()
	r := event.PaymentRefundRequested{OrderID: o.OrderID}
	out, err := f.Void(f.t.Context(), r)
	require.NoError(f.t, err)
	f.tx(func(tx *outbox.Tx) error { return f.ApplyVoid(f.t.Context(), tx, r, out) })
}

// told lists the types of the events about an order, in order.
func (f fixture) told(o event.OrderCreated) []string {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), `select topic from msg.outbox where key = $1 order by seq`, []byte(o.OrderID.String()))
	require.NoError(f.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(f.t, err)
	return list
}

func (f fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.pool.QueryRow(f.t.Context(), sql, args...).Scan(&n))
	return n
}

// books compares what the provider did with what is expected: charges, and
// amount that it keeps.
func (f fixture) books(o event.OrderCreated, charges int, kept int64) {
	f.t.Helper()
	key := o.OrderID.String()
	require.Equal(f.t, charges, f.count(`select count(*) from simulator.charges where key = $1`, key), "charges")
	require.EqualValues(f.t, kept, f.count(`select coalesce((select sum(amount) from simulator.charges where key = $1), 0)
		- coalesce((select sum(amount) from simulator.voids where key = $1), 0)`, key), "money kept")
}

func (f fixture) status(o event.OrderCreated) (s payment.Status) {
	f.t.Helper()
	require.NoError(f.t, f.pool.QueryRow(f.t.Context(), `select status from payments where order_id = $1`, o.OrderID).Scan(&s))
	return s
}

const (
	tCompleted = event.TypePaymentCompleted
	tFailed    = event.TypePaymentFailed
	tRequested = event.TypePaymentRefundRequested
	tRefunded  = event.TypePaymentRefunded
)

func TestAnOrderIsChargedOnceHoweverOftenItIsDelivered(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	for range 100 {
		f.created(o)
	}
	require.Equal(t, payment.Completed, f.status(o))
	require.Equal(t, []string{tCompleted}, f.told(o))
	f.books(o, 1, o.Total)
	require.Equal(t, 1, f.count(`select count(*) from simulator.calls where operation = 'confirm'`), "nobody is asked about what has ended")
}

func TestTheEventsCarryThePayment(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	f.created(o)
	list, err := f.OfOrder(t.Context(), payment.Actor{ID: o.CustomerID}, o.OrderID)
	require.NoError(t, err)
	require.Len(t, list, 1)
	p := list[0]
	require.NotEmpty(t, p.ProviderRef)

	var value []byte
	require.NoError(t, f.pool.QueryRow(t.Context(), `select value from msg.outbox where topic = $1`, tCompleted).Scan(&value))
	var got event.PaymentCompleted
	require.NoError(t, json.Unmarshal(value, &got))
	require.Equal(t, event.PaymentCompleted{
		PaymentID: p.ID, OrderID: o.OrderID, CustomerID: o.CustomerID, Amount: 1900, Currency: "EUR",
		ProviderRef: p.ProviderRef, CompletedAt: p.UpdatedAt,
	}, got)

	o = order(simulator.Expired)
	f.created(o)
	require.NoError(t, f.pool.QueryRow(t.Context(), `select value from msg.outbox where topic = $1`, tFailed).Scan(&value))
	var failed event.PaymentFailed
	require.NoError(t, json.Unmarshal(value, &failed))
	require.Equal(t, "expired_card", failed.Code)
	require.Equal(t, "Your card has expired.", failed.Message)
	require.Equal(t, o.OrderID, failed.OrderID)
}

func TestADeclineCostsNothing(t *testing.T) {
	f := setup(t)
	for method, code := range map[string]string{
		simulator.Declined: "card_declined", simulator.InsufficientFunds: "insufficient_funds",
		simulator.Expired: "expired_card", "banana": "invalid_payment_method",
	} {
		o := order(method)
		f.created(o)
		require.Equal(t, payment.Failed, f.status(o))
		var got string
		require.NoError(t, f.pool.QueryRow(t.Context(), `select failure_code from payments where order_id = $1`, o.OrderID).Scan(&got))
		require.Equal(t, code, got)
		f.cancel(o) // what the order service does then
		require.Equal(t, []string{tFailed}, f.told(o))
		f.books(o, 0, 0)
	}
}

func TestAProviderThatFailsTwiceChargesOnce(t *testing.T) {
	f := setup(t)
	o := order(simulator.ErrorTwice)
	for range 2 {
		_, err := f.Charge(t.Context(), o)
		require.ErrorIs(t, err, simulator.ErrUnavailable)
		require.Equal(t, payment.Pending, f.status(o))
	}
	f.created(o)
	require.Equal(t, []string{tCompleted}, f.told(o))
	f.books(o, 1, o.Total)
}

func TestAPaymentWhoseProviderNeverAnswersIsVoided(t *testing.T) {
	f := setup(t)
	o := order(simulator.Timeout)
	_, err := f.Charge(t.Context(), o)
	require.ErrorIs(t, err, simulator.ErrTimeout)
	f.cancel(o) // the order's deadline; its order.created is a dead letter by now
	f.release(o)
	require.Equal(t, payment.Voided, f.status(o))
	require.Equal(t, []string{tRequested}, f.told(o))
	f.books(o, 0, 0)
	f.created(o) // the dead letter, redriven
	require.Equal(t, payment.Voided, f.status(o))
	f.books(o, 0, 0)
}

func TestALostAnswerIsFoundOutAndNotPaidTwice(t *testing.T) {
	f := setup(t)
	o := order(simulator.AnswerLost)
	_, err := f.Charge(t.Context(), o)
	require.ErrorIs(t, err, simulator.ErrTimeout)
	f.created(o)
	require.Equal(t, []string{tCompleted}, f.told(o))
	f.books(o, 1, o.Total)
}

func TestAnEventThatNobodyWritesIsUnusable(t *testing.T) {
	f := setup(t)
	for name, change := range map[string]func(*event.OrderCreated){
		"no order":       func(o *event.OrderCreated) { o.OrderID = uuid.Nil },
		"no customer":    func(o *event.OrderCreated) { o.CustomerID = uuid.Nil },
		"nothing":        func(o *event.OrderCreated) { o.Total = 0 },
		"less":           func(o *event.OrderCreated) { o.Total = -1 },
		"no currency":    func(o *event.OrderCreated) { o.Currency = "euro" },
		"NUL in a token": func(o *event.OrderCreated) { o.PaymentMethod = "pm\x00" },
	} {
		o := order(simulator.Visa)
		change(&o)
		_, err := f.Charge(t.Context(), o)
		require.ErrorIs(t, err, payment.ErrUnusable, name)
	}
	err := f.db.InTx(t.Context(), func(tx *outbox.Tx) error { return f.ApplyCancel(t.Context(), tx, event.OrderCancelled{}) })
	require.ErrorIs(t, err, payment.ErrUnusable)
	require.Zero(t, f.count(`select count(*) from payments`))
}

func TestAPaymentBegunWithAnotherProviderWaitsForIt(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	f.created(o)
	f.cancel(o)
	other := config
	other.ProviderName = "stripe"
	svc, err := payment.NewService(f.db, f.provider, other, slog.New(slog.DiscardHandler), nil, time.Now)
	require.NoError(t, err)
	_, err = svc.Void(t.Context(), event.PaymentRefundRequested{OrderID: o.OrderID})
	require.ErrorContains(t, err, "PAYMENT_PROVIDER")
	f.books(o, 1, o.Total)
	f.release(o)
	f.books(o, 1, 0)
}

func TestOnlyTheOwnerAndAdminsSeeAPayment(t *testing.T) {
	f := setup(t)
	o := order(simulator.Visa)
	f.created(o)
	owner := payment.Actor{ID: o.CustomerID}
	list, err := f.OfOrder(t.Context(), owner, o.OrderID)
	require.NoError(t, err)
	require.Len(t, list, 1)
	id := list[0].ID
	for _, c := range []struct {
		who  payment.Actor
		sees bool
	}{
		{owner, true},
		{payment.Actor{ID: uuid.Must(uuid.NewV7()), Admin: true}, true},
		{payment.Actor{ID: uuid.Must(uuid.NewV7())}, false},
		{payment.Actor{}, false},
	} {
		list, err := f.OfOrder(t.Context(), c.who, o.OrderID)
		require.NoError(t, err)
		require.Equal(t, c.sees, len(list) == 1, "%+v", c.who)
		_, err = f.Get(t.Context(), c.who, id)
		require.Equal(t, c.sees, err == nil, "%+v", c.who)
	}
	// A tombstone is no payment.
	never := order(simulator.Visa)
	f.cancel(never)
	list, err = f.OfOrder(t.Context(), payment.Actor{Admin: true}, never.OrderID)
	require.NoError(t, err)
	require.Empty(t, list)
}

// A batch reads its payments once, ahead: what is later in it sees what was
// before.
func TestEventsOfOneOrderInOneBatch(t *testing.T) {
	f := setup(t)
	ctx := t.Context()
	paid, early := order(simulator.Visa), order(simulator.Visa)
	out, err := f.Charge(ctx, paid)
	require.NoError(t, err)
	f.tx(func(tx *outbox.Tx) error {
		require.NoError(t, f.Lock(ctx, tx, []uuid.UUID{paid.OrderID, early.OrderID}))
		require.NoError(t, f.ApplyCharge(ctx, tx, paid, out))
		require.NoError(t, f.ApplyCancel(ctx, tx, cancelled(paid)))
		return f.ApplyCancel(ctx, tx, cancelled(early)) // has none yet
	})
	require.Equal(t, []string{tCompleted, event.TypePaymentRefundRequested}, f.told(paid))
	require.Equal(t, payment.RefundPending, f.status(paid))
	require.Equal(t, payment.Voided, f.status(early))
	f.created(early)
	f.release(paid)
	require.Equal(t, payment.Refunded, f.status(paid))
	f.books(paid, 1, 0)
	f.books(early, 0, 0)
}
