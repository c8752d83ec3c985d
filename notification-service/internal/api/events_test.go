package api_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/notification-service/internal/api"
	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// outside stands for the people who get messages.
type outside struct {
	mu   sync.Mutex
	got  []notification.Message
	fail func(m notification.Message, attempt int) error // asked before each delivery, from attempt 1
	seen map[uuid.UUID]int
}

func (o *outside) Name() string { return "outside" }

func (o *outside) Send(_ context.Context, m notification.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen == nil {
		o.seen = map[uuid.UUID]int{}
	}
	o.seen[m.ID]++
	if o.fail != nil {
		if err := o.fail(m, o.seen[m.ID]); err != nil {
			return err
		}
	}
	o.got = append(o.got, m)
	return nil
}

// kinds returns what was delivered, sorted, as delivery keeps no order across topics.
func (o *outside) kinds() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := []string{}
	for _, m := range o.got {
		list = append(list, string(m.Kind))
	}
	slices.Sort(list)
	return list
}

// bus is a broker with an instance of the service consuming from it.
type bus struct {
	replica
	cfg    kafka.Config
	client *kgo.Client
}

func setupBus(t *testing.T, channel notification.Channel) bus {
	t.Helper()
	b := bus{cfg: kafkatest.New(t)}
	b.replica = start(t, pgtest.URL(t, notification.Migrations), authntest.New(t), channel)
	reg := prometheus.NewRegistry()
	client, err := kafka.NewClient(b.cfg, "test", quiet, reg)
	require.NoError(t, err)
	b.client = client
	require.NoError(t, kafka.EnsureTopics(t.Context(), client, b.cfg, event.Types()...))
	consumer, err := kafka.NewConsumer(b.cfg, kafka.ConsumerConfig{
		Group: notification.Source, DLQ: "notification.failed.dlq",
		RetryDelays: []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 150 * time.Millisecond},
	}, b.db, quiet, reg, api.Subscriptions(b.svc)...)
	require.NoError(t, err)
	relay := outbox.NewRelay(b.db, client, outbox.RelayConfig{}, quiet, reg)
	ctx, cancel := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return relay.Run(ctx) })
	g.Go(func() error { return consumer.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		require.NoError(t, g.Wait())
		client.Close()
	})
	return b
}

// publish writes events to their topics as the other services' relays do.
func (b bus) publish(events ...event.Event) {
	b.t.Helper()
	for _, e := range events {
		rec := &kgo.Record{Topic: e.Type, Key: []byte(e.Subject), Value: e.Data}
		for _, h := range e.Headers() {
			rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
		}
		require.NoError(b.t, b.client.ProduceSync(b.t.Context(), rec).FirstErr())
	}
}

func (b bus) strings(sql string, args ...any) []string {
	b.t.Helper()
	rows, err := b.db.Pool.Query(b.t.Context(), sql, args...)
	require.NoError(b.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(b.t, err)
	return list
}

func (b bus) eventually(what string, ok func() bool) {
	b.t.Helper()
	require.Eventually(b.t, ok, 20*time.Second, 20*time.Millisecond, what)
}

func (b bus) settled(user uuid.UUID, n int) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("%d deliveries", n), func() bool {
		return len(b.strings(`select status from deliveries where user_id = $1 and status = 'delivered'`, user)) == n
	})
}

// caughtUp waits until the group has committed everything that is in its topics.
func (b bus) caughtUp() {
	b.t.Helper()
	b.eventually("the group has read everything", func() bool {
		lags, err := kadm.NewClient(b.client).Lag(b.t.Context(), notification.Source)
		require.NoError(b.t, err)
		group := lags[notification.Source]
		return group.Error() == nil && group.Lag.Total() == 0
	})
}

func registered(user uuid.UUID) event.Event {
	return event.New("auth-service", event.UserRegistered{UserID: user, Email: "asha@example.com", Name: "Asha"})
}

// saga is every event about one order that the service consumes.
func saga(user uuid.UUID) []event.Event {
	id := newUser()
	order := []event.Payload{
		event.OrderCreated{OrderID: id, CustomerID: user, RestaurantName: "R", Total: 1900, Currency: "EUR"},
		event.PaymentCompleted{OrderID: id, CustomerID: user, Amount: 1900, Currency: "EUR"},
		event.PaymentFailed{OrderID: id, CustomerID: user, Amount: 1900, Currency: "EUR", Code: "card_declined"},
		event.OrderStatusChanged{OrderID: id, CustomerID: user, From: "pending", To: "confirmed"},
		event.OrderStatusChanged{OrderID: id, CustomerID: user, From: "confirmed", To: "preparing"},
		event.OrderStatusChanged{OrderID: id, CustomerID: user, From: "preparing", To: "out_for_delivery"},
		event.OrderStatusChanged{OrderID: id, CustomerID: user, From: "out_for_delivery", To: "delivered"},
		event.OrderCancelled{OrderID: id, CustomerID: user, Reason: "customer"},
		event.PaymentRefunded{OrderID: id, CustomerID: user, Amount: 1900, Currency: "EUR"},
	}
	events := make([]event.Event, len(order))
	for i, p := range order {
		events[i] = event.New("test", p)
	}
	return events
}

var allKinds = []string{
	"order_cancelled", "order_confirmed", "order_delivered", "order_out_for_delivery", "order_placed",
	"order_preparing", "payment_completed", "payment_failed", "payment_refunded", "welcome",
}

func TestEveryFactOfASagaIsToldOnceHoweverOftenItComes(t *testing.T) {
	t.Parallel()
	out := &outside{}
	b := setupBus(t, out)
	user := newUser()
	events := append(saga(user), registered(user))
	for range 3 {
		b.publish(events...)
	}
	b.settled(user, len(allKinds))
	b.publish(events...) // and once more, when all of it was told long ago
	b.caughtUp()

	require.Equal(t, allKinds, b.strings(`select kind from notifications where user_id = $1 order by kind`, user))
	require.Equal(t, allKinds, out.kinds())
}

func TestOrderEventsMayComeBeforeTheUser(t *testing.T) {
	t.Parallel()
	out := &outside{}
	b := setupBus(t, out)
	user := newUser()
	b.publish(saga(user)...)
	b.eventually("the deliveries wait", func() bool {
		return len(b.strings(`select status from deliveries where user_id = $1 and status = 'waiting'`, user)) == len(allKinds)-1
	})
	require.Empty(t, out.kinds())
	b.publish(registered(user))
	b.settled(user, len(allKinds))
	require.Equal(t, allKinds, out.kinds())
	require.Empty(t, b.strings(`select id::text from msg.dead_letters`))
}

func TestAFailingChannelIsRetriedAndThenDeadLettered(t *testing.T) {
	t.Parallel()
	unlucky, doomed, refused, fine := newUser(), newUser(), newUser(), newUser()
	out := &outside{fail: func(m notification.Message, attempt int) error {
		switch {
		case m.UserID == unlucky && attempt <= 2:
			return errors.New("try later")
		case m.UserID == doomed:
			return errors.New("out of order")
		case m.UserID == refused:
			return fmt.Errorf("%w: no such mailbox", notification.ErrRefused)
		}
		return nil
	}}
	b := setupBus(t, out)
	for _, user := range []uuid.UUID{unlucky, doomed, refused, fine} {
		b.publish(registered(user))
	}
	b.settled(unlucky, 1)
	b.settled(fine, 1)
	b.eventually("dead letters", func() bool { return len(b.strings(`select id::text from msg.dead_letters`)) == 2 })

	out.mu.Lock()
	attempts := map[uuid.UUID]int{}
	for _, user := range []uuid.UUID{unlucky, doomed, refused, fine} {
		var id uuid.UUID
		require.NoError(t, b.db.Pool.QueryRow(t.Context(), `select id from notifications where user_id = $1`, user).Scan(&id))
		attempts[user] = out.seen[id]
	}
	out.mu.Unlock()
	require.Equal(t, map[uuid.UUID]int{unlucky: 3, doomed: 4, refused: 1, fine: 1}, attempts)
	require.Len(t, b.strings(`select kind from notifications`), 4, "a failing channel costs no notification")
	require.Equal(t, []string{event.TypeNotificationDeliveryRequested}, b.strings(`select distinct type from msg.dead_letters`))
}

func TestWhatCanNeverBecomeANotificationIsDeadLettered(t *testing.T) {
	t.Parallel()
	out := &outside{}
	b := setupBus(t, out)
	user := newUser()
	nobody := event.New("test", event.OrderCreated{OrderID: newUser()})
	unknown := event.New("test", event.OrderStatusChanged{OrderID: newUser(), CustomerID: user, To: "teleported"})
	homeless := event.New("test", event.UserRegistered{UserID: newUser(), Email: "eve@example.com\r\nBcc: all@example.com"})
	garbage := event.New("test", event.PaymentCompleted{OrderID: newUser(), CustomerID: user})
	garbage.Data = []byte(`{"order_id": 7`)
	b.publish(nobody, unknown, homeless, garbage, registered(user))
	b.settled(user, 1)
	b.eventually("dead letters", func() bool { return len(b.strings(`select id::text from msg.dead_letters`)) == 4 })
	want := []string{nobody.ID.String(), unknown.ID.String(), homeless.ID.String(), garbage.ID.String()}
	slices.Sort(want)
	require.Equal(t, want, b.strings(`select event_id::text from msg.dead_letters order by 1`))
	require.Equal(t, []string{"welcome"}, out.kinds())
}
