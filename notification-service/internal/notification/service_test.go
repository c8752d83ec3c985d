package notification

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outside stands for the people who get messages.
type outside struct {
	mu   sync.Mutex
	got  []Message
	fail error
}

func (o *outside) Name() string { return "outside" }

func (o *outside) Send(_ context.Context, m Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	o.got = append(o.got, m)
	return nil
}

type fixture struct {
	*Service
	t    *testing.T
	pool *pgxpool.Pool
	out  *outside
}

func setup(t *testing.T) fixture {
	t.Helper()
	pool := pgtest.New(t, Migrations)
	out := &outside{}
	return fixture{NewService(outbox.NewDB(pool, nil), nil, out), t, pool, out}
}

func (f fixture) tx(fn func(tx *outbox.Tx) error) {
	f.t.Helper()
	require.NoError(f.t, f.db.InTx(f.t.Context(), fn))
}

func newEvent(p event.Payload) event.Event { return event.New("test", p) }

func placed(user uuid.UUID) event.OrderCreated {
	return event.OrderCreated{OrderID: uuid.Must(uuid.NewV7()), CustomerID: user, RestaurantName: "R", Total: 100, Currency: "EUR"}
}

// tell notifies the customer of a new order.
func (f fixture) tell(tx *outbox.Tx, p event.OrderCreated) error {
	n, err := OfOrderCreated(p)
	if err != nil {
		return err
	}
	return f.Notify(f.t.Context(), tx, newEvent(p), n)
}

func (f fixture) place(user uuid.UUID) event.Event {
	f.t.Helper()
	p := placed(user)
	e := newEvent(p)
	n, err := OfOrderCreated(p)
	require.NoError(f.t, err)
	f.tx(func(tx *outbox.Tx) error { return f.Notify(f.t.Context(), tx, e, n) })
	return e
}

func (f fixture) register(user uuid.UUID) {
	f.t.Helper()
	p := event.UserRegistered{UserID: user, Email: "asha@example.com", Name: "Asha"}
	f.tx(func(tx *outbox.Tx) error { return f.Register(f.t.Context(), tx, newEvent(p), p) })
}

// requests returns the deliveries that were asked for so far, in order.
func (f fixture) requests() []event.NotificationDeliveryRequested {
	f.t.Helper()
	rows, err := f.pool.Query(f.t.Context(), `select value from msg.outbox where topic = $1 order by seq`, event.TypeNotificationDeliveryRequested)
	require.NoError(f.t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(f.t, err)
	list := make([]event.NotificationDeliveryRequested, len(values))
	for i, v := range values {
		require.NoError(f.t, json.Unmarshal(v, &list[i]))
	}
	return list
}

// attempt delivers as the consumer does: first outside, then in a transaction.
func (f fixture) attempt(p event.NotificationDeliveryRequested) Attempt {
	f.t.Helper()
	a, err := f.Deliver(f.t.Context(), p)
	require.NoError(f.t, err)
	f.tx(func(tx *outbox.Tx) error { return f.RecordAttempt(f.t.Context(), tx, p, a) })
	return a
}

func (f fixture) count(sql string, args ...any) (n int) {
	f.t.Helper()
	require.NoError(f.t, f.pool.QueryRow(f.t.Context(), sql, args...).Scan(&n))
	return n
}

func newUser() uuid.UUID { return uuid.Must(uuid.NewV7()) }

func TestANotificationAndItsDeliveryAreOneTransaction(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	e := f.place(user)

	requests := f.requests()
	require.Len(t, requests, 1)
	id := idOf(e, user, OrderPlaced)
	require.Equal(t, id, requests[0].NotificationID)
	require.Equal(t, "outside", requests[0].Channel)
	require.Equal(t, e.Subject, requests[0].OrderID.String())
	require.Equal(t, 1, f.count(`select count(*) from contacts where user_id = $1 and email is null`, user))

	broken := errors.New("another event of the batch failed")
	err := f.db.InTx(t.Context(), func(tx *outbox.Tx) error {
		n, err := OfOrderCreated(placed(user))
		require.NoError(t, err)
		require.NoError(t, f.Notify(t.Context(), tx, newEvent(placed(user)), n))
		_, err = tx.Exec(t.Context(), `select 1`) // sends what was queued
		require.NoError(t, err)
		return broken
	})
	require.ErrorIs(t, err, broken)
	require.Len(t, f.requests(), 1)
	require.Equal(t, 1, f.count(`select count(*) from notifications`))
}

func TestAnEventThatComesAgainTellsNothingNew(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.register(user)
	p := placed(user)
	e := newEvent(p)
	n, err := OfOrderCreated(p)
	require.NoError(t, err)
	for range 3 {
		f.tx(func(tx *outbox.Tx) error { return f.Notify(t.Context(), tx, e, n) })
	}
	f.tx(func(tx *outbox.Tx) error { // and twice in one batch
		return errors.Join(f.Notify(t.Context(), tx, e, n), f.Notify(t.Context(), tx, e, n))
	})
	for _, r := range f.requests() {
		f.attempt(r)
	}
	require.Equal(t, 1, f.count(`select count(*) from notifications where kind = 'order_placed'`))
	require.Len(t, f.out.got, 2, "the welcome and the order")
}

func TestOneEventMayTellSeveralUsersAndKinds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, b := newUser(), newUser()
	e := newEvent(placed(a))
	for _, n := range []Notice{{UserID: a, Kind: OrderPlaced}, {UserID: b, Kind: OrderPlaced}, {UserID: a, Kind: OrderConfirmed}} {
		f.tx(func(tx *outbox.Tx) error { return f.Notify(t.Context(), tx, e, n) })
	}
	require.Equal(t, 3, f.count(`select count(*) from notifications where event_id = $1`, e.ID))
}

func TestADeliveryWaitsForTheAddress(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.place(user)
	f.place(user)
	for _, r := range f.requests() {
		require.Equal(t, NoAddress, f.attempt(r))
		require.Equal(t, NoAddress, f.attempt(r), "also when it is delivered twice")
	}
	require.Empty(t, f.out.got)
	list, err := f.List(t.Context(), user, 0, false, 10)
	require.NoError(t, err)
	require.Len(t, list, 2, "the user sees them all the same")

	f.register(user)
	requests := f.requests()
	require.Len(t, requests, 5, "two that waited, the welcome, and the two again")
	for _, r := range requests[2:] {
		require.Equal(t, Sent, f.attempt(r))
	}
	require.Len(t, f.out.got, 3)
	for _, m := range f.out.got {
		require.Equal(t, "asha@example.com", m.To)
		require.Equal(t, "Asha", m.Name)
	}
	require.Equal(t, 3, f.count(`select count(*) from deliveries where status = 'delivered'`))
	require.Zero(t, f.count(`select count(*) from deliveries where status = 'waiting'`))
	f.register(user) // the event again, after its inbox row was pruned
	require.Len(t, f.requests(), 6, "nothing waits any more")
}

func TestAnAddressThatComesDuringTheAttemptIsNotMissed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.place(user)
	r := f.requests()[0]
	a, err := f.Deliver(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, NoAddress, a)
	f.register(user)
	f.tx(func(tx *outbox.Tx) error { return f.RecordAttempt(t.Context(), tx, r, a) })

	requests := f.requests()
	require.Len(t, requests, 3)
	require.Equal(t, r.NotificationID, requests[2].NotificationID)
	require.Equal(t, Sent, f.attempt(requests[2]))
}

// Two requests for one delivery may be in one batch, and end differently.
func TestADeliveryThatEndsTwiceInABatchIsDelivered(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, ends := range [][]Attempt{{NoAddress, Sent}, {Sent, NoAddress}, {Sent, Sent}} {
		user := newUser()
		f.place(user)
		all := f.requests()
		r := all[len(all)-1]
		f.tx(func(tx *outbox.Tx) error {
			return errors.Join(f.RecordAttempt(t.Context(), tx, r, ends[0]), f.RecordAttempt(t.Context(), tx, r, ends[1]))
		})
		require.Equal(t, 1, f.count(`select count(*) from deliveries where notification_id = $1 and status = 'delivered'`, r.NotificationID))
		f.tx(func(tx *outbox.Tx) error { return f.RecordAttempt(t.Context(), tx, r, NoAddress) })
		require.Equal(t, 1, f.count(`select count(*) from deliveries where notification_id = $1 and status = 'delivered'`, r.NotificationID), "never taken back")
	}
}

func TestRegistrationRacingDeliveriesLeavesNoneWaiting(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const users = 30
	var wg sync.WaitGroup
	for range users {
		user := newUser()
		f.place(user)
		all := f.requests()
		r := all[len(all)-1]
		a, err := f.Deliver(t.Context(), r)
		require.NoError(t, err)
		start := make(chan struct{})
		wg.Go(func() { <-start; f.register(user) })
		wg.Go(func() {
			<-start
			f.tx(func(tx *outbox.Tx) error { return f.RecordAttempt(t.Context(), tx, r, a) })
		})
		close(start)
		wg.Wait()
	}
	require.Zero(t, f.count(`select count(*) from deliveries where status = 'waiting'`))
	for _, r := range f.requests() {
		f.attempt(r)
	}
	require.Len(t, f.out.got, 2*users, "each order and each welcome once")
}

func TestAChannelsFailureDelaysTheDeliveryOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.register(user)
	r := f.requests()[0]
	f.out.fail = errors.New("mail server is down")
	_, err := f.Deliver(t.Context(), r)
	require.ErrorIs(t, err, f.out.fail)
	list, err := f.List(t.Context(), user, 0, true, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Zero(t, f.count(`select count(*) from deliveries`))

	f.out.fail = nil
	require.Equal(t, Sent, f.attempt(r))
	require.Equal(t, Known, f.attempt(r))
	require.Len(t, f.out.got, 1)
	require.Equal(t, list[0].ID, f.out.got[0].ID)

	_, err = f.Deliver(t.Context(), event.NotificationDeliveryRequested{NotificationID: newUser()})
	require.ErrorIs(t, err, ErrUnusable, "a request for nothing cannot be cured")
}

func TestAUsersNotificationsAreTheUsersOwn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user, other := newUser(), newUser()
	f.place(user)
	list, err := f.List(t.Context(), user, 0, false, 10)
	require.NoError(t, err)
	require.Len(t, list, 1)

	require.Equal(t, errs.NotFound, errs.KindOf(f.MarkRead(t.Context(), other, list[0].ID)))
	require.Equal(t, errs.NotFound, errs.KindOf(f.MarkRead(t.Context(), user, newUser())))
	require.NoError(t, f.MarkRead(t.Context(), user, list[0].ID))
	first, err := f.List(t.Context(), user, 0, false, 10)
	require.NoError(t, err)
	require.NotNil(t, first[0].ReadAt)
	require.NoError(t, f.MarkRead(t.Context(), user, list[0].ID))
	again, err := f.List(t.Context(), user, 0, false, 10)
	require.NoError(t, err)
	require.Equal(t, first, again, "the first reading counts")

	list, err = f.List(t.Context(), other, 0, false, 10)
	require.NoError(t, err)
	require.Empty(t, list)
	unread, err := f.List(t.Context(), user, 0, true, 10)
	require.NoError(t, err)
	require.Empty(t, unread)
}
