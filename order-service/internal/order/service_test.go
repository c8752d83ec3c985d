package order

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const deadline = 10 * time.Minute

// world is a service on a database of its own, with the demo catalogue and a
// clock that the test moves.
type world struct {
	*Service
	t   *testing.T
	mu  sync.Mutex
	now time.Time
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)}
	w.Service = NewService(outbox.NewDB(pgtest.New(t, Migrations), nil), deadline, slog.New(slog.DiscardHandler), w.clock)
	require.NoError(t, w.SeedDemo(t.Context()))
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func demoPlacement() Placement {
	p := goodPlacement()
	p.RestaurantID = demoID("001")
	p.Items = []PlacedItem{{demoID("101"), 2}, {demoID("103"), 1}}
	return p
}

func (w *world) place() Order {
	w.t.Helper()
	o, err := w.Place(w.t.Context(), someCustomer, "", demoPlacement())
	require.NoError(w.t, err)
	return o
}

func (w *world) get(id uuid.UUID) Order {
	w.t.Helper()
	o, err := w.Get(w.t.Context(), Actor{Admin: true}, id)
	require.NoError(w.t, err)
	return o
}

// timeline gives an order's timeline as "kind detail" lines, and checks that
// its numbers have no hole.
func (w *world) timeline(id uuid.UUID) []string {
	w.t.Helper()
	list, err := w.Timeline(w.t.Context(), id, 0)
	require.NoError(w.t, err)
	var lines []string
	for i, e := range list {
		require.Equal(w.t, int64(i+1), e.Seq)
		require.NotEqual(w.t, uuid.Nil, e.EventID)
		detail, err := json.Marshal(e.Detail)
		require.NoError(w.t, err)
		lines = append(lines, e.Kind+" "+string(detail))
	}
	return lines
}

// emitted gives the events about an order, in the order in which they will be
// published.
func (w *world) emitted(id uuid.UUID) []string {
	w.t.Helper()
	rows, err := w.db.Pool.Query(w.t.Context(), `select topic, convert_from(value, 'UTF8') from msg.outbox where key = $1 order by seq`, []byte(id.String()))
	require.NoError(w.t, err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var topic, value string
		require.NoError(w.t, rows.Scan(&topic, &value))
		lines = append(lines, topic+" "+value)
	}
	require.NoError(w.t, rows.Err())
	return lines
}

func (w *world) topics(id uuid.UUID) []string {
	w.t.Helper()
	var topics []string
	for _, line := range w.emitted(id) {
		var topic string
		_, err := fmt.Sscan(line, &topic)
		require.NoError(w.t, err)
		topics = append(topics, topic)
	}
	return topics
}

func apply[P event.Payload](w *world, handler func(context.Context, *outbox.Tx, event.Event, P) error, p P) error {
	return w.db.InTx(w.t.Context(), func(tx *outbox.Tx) error {
		return handler(w.t.Context(), tx, event.New("payment-service", p), p)
	})
}

var somePayment = uuid.MustParse("01900000-0000-7000-8000-0000000000aa")

func (w *world) completed(o Order) error {
	return apply(w, w.ApplyPaymentCompleted, event.PaymentCompleted{PaymentID: somePayment, OrderID: o.ID, Amount: o.Total, Currency: o.Currency})
}

func (w *world) failed(o Order) error {
	return apply(w, w.ApplyPaymentFailed, event.PaymentFailed{PaymentID: somePayment, OrderID: o.ID, Amount: o.Total, Currency: o.Currency, Code: "card_declined", Message: "Declined."})
}

func (w *world) refunded(o Order) error {
	return apply(w, w.ApplyPaymentRefunded, event.PaymentRefunded{PaymentID: somePayment, OrderID: o.ID, Amount: o.Total, Currency: o.Currency})
}

const (
	tlCreated   = `order.created {"currency":"EUR","total":2250}`
	tlCompleted = `payment.completed {"amount":2250,"currency":"EUR","payment_id":"01900000-0000-7000-8000-0000000000aa"}`
	tlConfirmed = `order.status_changed {"from":"pending","to":"confirmed"}`
	tlFailed    = `payment.failed {"code":"card_declined","message":"Declined.","payment_id":"01900000-0000-7000-8000-0000000000aa"}`
	tlRefunded  = `payment.refunded {"amount":2250,"currency":"EUR","payment_id":"01900000-0000-7000-8000-0000000000aa"}`
)

func TestPlaceStoresTheOrderItsTimelineAndItsEvent(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	require.Equal(t, o, w.get(o.ID), "what is answered is what is read back")
	require.Equal(t, Pending, o.Status)
	require.Equal(t, int64(2250), o.Total)
	require.Equal(t, w.now.Truncate(time.Microsecond).Add(deadline), o.PaymentDeadline)
	require.Equal(t, []string{tlCreated}, w.timeline(o.ID))
	require.Equal(t, []string{fmt.Sprintf(`order.created {"order_id":"%s","customer_id":"%s","restaurant_id":"%s","restaurant_name":"Saffron \u0026 Smoke",`+
		`"items":[{"menu_item_id":"%s","name":"Dal Makhani","unit_price":950,"quantity":2},{"menu_item_id":"%s","name":"Garlic Naan","unit_price":350,"quantity":1}],`+
		`"total":2250,"currency":"EUR","payment_method":"pm_card_visa","created_at":"2026-01-02T03:04:05.678901Z"}`,
		o.ID, someCustomer, demoID("001"), demoID("101"), demoID("103"))}, w.emitted(o.ID))

	list, err := w.Timeline(t.Context(), o.ID, 0)
	require.NoError(t, err)
	var eventID uuid.UUID
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `select event_id from msg.outbox`).Scan(&eventID))
	require.Equal(t, eventID, list[0].EventID, "the timeline names the event")
}

func TestPlaceRefusesWhatTheCatalogueDoesNotHave(t *testing.T) {
	t.Parallel()
	w := setup(t)
	cases := map[string]struct {
		change func(p *Placement)
		want   map[string]string
	}{
		"unknown restaurant": {func(p *Placement) { p.RestaurantID = uuid.Max }, map[string]string{"/restaurant_id": "there is no such restaurant"}},
		"item of another":    {func(p *Placement) { p.Items[1].MenuItemID = demoID("201") }, map[string]string{"/items/1/menu_item_id": "is not on the menu of this restaurant"}},
		"unavailable":        {func(p *Placement) { p.Items[0].MenuItemID = demoID("104") }, map[string]string{"/items/0/menu_item_id": "is not available"}},
	}
	for name, c := range cases {
		p := demoPlacement()
		c.change(&p)
		_, err := w.Place(t.Context(), someCustomer, "key", p)
		require.Equal(t, c.want, fields(t, err), name)
	}
	for _, table := range []string{"orders", "timeline", "idempotency_keys", "msg.outbox"} {
		var n int
		require.NoError(t, w.db.Pool.QueryRow(t.Context(), `select count(*) from `+table).Scan(&n))
		require.Zero(t, n, "nothing is stored in %s", table)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	_, err := w.Cancel(t.Context(), Actor{ID: uuid.Max}, o.ID)
	require.Equal(t, errs.NotFound, errs.KindOf(err), "somebody else's order")
	_, err = w.Cancel(t.Context(), Actor{Admin: true}, uuid.Max)
	require.Equal(t, errs.NotFound, errs.KindOf(err))

	w.pass(time.Minute)
	got, err := w.Cancel(t.Context(), Actor{ID: someCustomer}, o.ID)
	require.NoError(t, err)
	require.Equal(t, ByCustomer, got.CancelReason)
	require.Equal(t, got, w.get(o.ID))
	require.Equal(t, o.CreatedAt.Add(time.Minute), got.UpdatedAt)
	require.Equal(t, fmt.Sprintf(`order.cancelled {"order_id":"%s","customer_id":"%s","reason":"customer","cancelled_at":"2026-01-02T03:05:05.678901Z"}`, o.ID, someCustomer), w.emitted(o.ID)[1])
	_, err = w.Cancel(t.Context(), Actor{ID: someCustomer}, o.ID)
	require.Equal(t, errs.Conflict, errs.KindOf(err), "second cancel")

	o = w.place()
	got, err = w.Cancel(t.Context(), Actor{ID: uuid.Max, Admin: true}, o.ID)
	require.NoError(t, err)
	require.Equal(t, ByAdmin, got.CancelReason)
	require.Equal(t, []string{"order.created", "order.cancelled"}, w.topics(o.ID))
}

func TestAdminMovesAnOrderOn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	_, err := w.SetStatus(t.Context(), o.ID, Confirmed)
	require.Equal(t, errs.Conflict, errs.KindOf(err), "only a payment confirms")
	_, err = w.SetStatus(t.Context(), o.ID, "eaten")
	require.Equal(t, errs.Invalid, errs.KindOf(err))
	_, err = w.SetStatus(t.Context(), uuid.Max, Preparing)
	require.Equal(t, errs.NotFound, errs.KindOf(err))
	require.NoError(t, w.completed(o))
	_, err = w.SetStatus(t.Context(), o.ID, Delivered)
	require.Equal(t, errs.Conflict, errs.KindOf(err), "no step is left out")
	for _, to := range []Status{Preparing, OutForDelivery, Delivered} {
		got, err := w.SetStatus(t.Context(), o.ID, to)
		require.NoError(t, err)
		require.Equal(t, to, got.Status)
		_, err = w.SetStatus(t.Context(), o.ID, to)
		require.Equal(t, errs.Conflict, errs.KindOf(err), "not twice")
		_, err = w.Cancel(t.Context(), Actor{ID: someCustomer}, o.ID)
		require.Equal(t, errs.Conflict, errs.KindOf(err), "too late to cancel")
	}
	require.Equal(t, []string{
		tlCreated, tlCompleted, tlConfirmed,
		`order.status_changed {"from":"confirmed","to":"preparing"}`,
		`order.status_changed {"from":"preparing","to":"out_for_delivery"}`,
		`order.status_changed {"from":"out_for_delivery","to":"delivered"}`,
	}, w.timeline(o.ID))
}

// Who watches an order is woken by every change, not left to the poll.
func TestChangesRingTheBell(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	bell := postgres.NewDoorbell(w.db.Pool, w.log)
	wake, stop := bell.Subscribe(BellKey(o.ID))
	defer stop()
	w.db = outbox.NewDB(w.db.Pool, bell)
	for _, change := range []func(Order) error{w.completed, w.refunded} {
		require.NoError(t, change(o))
		require.Len(t, wake, 1)
		<-wake
	}
	_, err := w.Cancel(t.Context(), Actor{ID: someCustomer}, o.ID)
	require.NoError(t, err)
	require.Len(t, wake, 1)
}
