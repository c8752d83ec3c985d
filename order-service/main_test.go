package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const placement = `{"restaurant_id":"01900000-0000-7000-8000-000000000001","items":[{"menu_item_id":"01900000-0000-7000-8000-000000000101","quantity":2}],
	"delivery_address":{"line1":"1 Main St","city":"Berlin","postal_code":"10115","country":"DE"},"payment_method":"pm_card_visa"}`

// settings of a service on a database and with tokens of issuer; broker "" is
// one that does not answer.
func settings(t *testing.T, issuer *authntest.Issuer, database, broker string) map[string]string {
	t.Helper()
	if broker == "" {
		broker = "127.0.0.1:1"
	}
	return map[string]string{
		"DATABASE_URL": database, "KAFKA_BROKERS": broker, "KAFKA_TOPIC_PARTITIONS": "3", "KAFKA_TOPIC_REPLICATION": "1",
		"JWKS_URL": issuer.Server(), "JWT_ISSUER": authntest.TestIssuer, "JWT_AUDIENCE": authntest.TestAudience,
		"SEED_DEMO_DATA": "true",
	}
}

func call(t *testing.T, token, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

// place orders and gives the order; the keys may still be on their way.
func place(t *testing.T, base, token string) order.Order {
	t.Helper()
	var o order.Order
	until(t, func() bool {
		status, body := call(t, token, "POST", base+"/orders", placement)
		if status != 201 {
			require.Equal(t, 503, status, body)
			return false
		}
		require.NoError(t, json.Unmarshal([]byte(body), &o))
		return true
	})
	return o
}

// until waits for a condition, in the test's own goroutine so that it may use require.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			require.Fail(t, "timed out")
		}
	}
}

// The service as it runs: an order goes out over Kafka, its payment comes back
// over Kafka, twice, and the process ends cleanly.
func TestOrderOverHTTPAndKafka(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	broker := kafkatest.New(t)
	s := servicetest.Boot(t, run, settings(t, issuer, pgtest.URL(t, order.Migrations), broker.Brokers[0]))
	token := issuer.Token(uuid.New(), authn.Customer)
	o := place(t, s.HTTP, token)

	client := consume(t, broker, event.TypeOrderCreated, event.TypeOrderStatusChanged)
	e := next(t, client)
	require.Equal(t, event.TypeOrderCreated, e.Type)
	require.Equal(t, o.ID.String(), e.Subject)
	created, err := event.Decode[event.OrderCreated](e)
	require.NoError(t, err)
	require.Equal(t, o.Total, created.Total)

	paid := event.New("payment-service", event.PaymentCompleted{PaymentID: uuid.New(), OrderID: o.ID, Amount: o.Total, Currency: o.Currency})
	for range 100 {
		produce(t, client, paid)
	}
	e = next(t, client)
	changed, err := event.Decode[event.OrderStatusChanged](e)
	require.NoError(t, err)
	require.Equal(t, "confirmed", changed.To)
	produce(t, client, event.New("payment-service", event.PaymentRefunded{PaymentID: uuid.New(), OrderID: o.ID, Amount: o.Total, Currency: o.Currency}))
	var kinds []string
	until(t, func() bool {
		_, body := call(t, token, "GET", s.HTTP+"/orders/"+o.ID.String()+"/timeline", "")
		var list struct{ Items []order.Entry }
		require.NoError(t, json.Unmarshal([]byte(body), &list))
		kinds = nil
		for _, entry := range list.Items {
			kinds = append(kinds, entry.Kind)
		}
		return len(kinds) >= 4
	})
	require.Equal(t, []string{"order.created", "payment.completed", "order.status_changed", "payment.refunded"}, kinds)
}

// A payment of another amount confirms nothing and is kept for people to look at.
func TestPaymentOfAnotherAmountIsDeadLettered(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	broker := kafkatest.New(t)
	s := servicetest.Boot(t, run, settings(t, issuer, pgtest.URL(t, order.Migrations), broker.Brokers[0]))
	token := issuer.Token(uuid.New(), authn.Customer)
	o := place(t, s.HTTP, token)
	client := consume(t, broker, "order.failed.dlq")
	wrong := event.New("payment-service", event.PaymentCompleted{PaymentID: uuid.New(), OrderID: o.ID, Amount: 1, Currency: o.Currency})
	produce(t, client, wrong)
	require.Equal(t, wrong.ID, next(t, client).ID)
	_, body := call(t, token, "GET", s.HTTP+"/orders/"+o.ID.String(), "")
	require.Contains(t, body, `"status":"pending"`)
}

// consume gives a client that reads topics from their start, and produces.
func consume(t *testing.T, broker kafka.Config, topics ...string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.Brokers...), kgo.ConsumeTopics(topics...),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.MetadataMaxAge(200*time.Millisecond), kgo.UnknownTopicRetries(-1))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func produce(t *testing.T, client *kgo.Client, e event.Event) {
	t.Helper()
	r := &kgo.Record{Topic: e.Type, Key: []byte(e.Subject), Value: e.Data}
	for _, h := range e.Headers() {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
	}
	require.NoError(t, client.ProduceSync(t.Context(), r).FirstErr())
}

// next gives the next record that client consumes.
func next(t *testing.T, client *kgo.Client) event.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		fetches := client.PollRecords(ctx, 1)
		require.NoError(t, ctx.Err())
		for _, r := range fetches.Records() {
			e, err := event.FromRecord(func(name string) string {
				for _, h := range r.Headers {
					if h.Key == name {
						return string(h.Value)
					}
				}
				return ""
			}, r.Key, r.Value)
			require.NoError(t, err)
			return e
		}
	}
}

// Orders are taken while the broker is down, and told of when it is back, also
// by another process.
func TestOrdersAreTakenWithTheBrokerDown(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	database := pgtest.URL(t, order.Migrations)
	s := servicetest.Boot(t, run, settings(t, issuer, database, ""))
	o := place(t, s.HTTP, issuer.Token(uuid.New(), authn.Customer))
	status, body := call(t, "", "GET", s.Admin+"/readyz", "")
	require.Equal(t, 200, status)
	require.NotContains(t, body, `"kafka":"ok"`, "the broker's state is told, but not decisive")
	s.Stop()

	broker := kafkatest.New(t)
	servicetest.Boot(t, run, settings(t, issuer, database, broker.Brokers[0]))
	require.Equal(t, o.ID.String(), next(t, consume(t, broker, event.TypeOrderCreated)).Subject)
}

func TestTwoReplicasStartAtOnceOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	env := settings(t, issuer, pgtest.Empty(t), "")
	first, second := servicetest.Launch(t, run, env), servicetest.Launch(t, run, env)
	for _, s := range []*servicetest.Running{first, second} {
		s.WaitReady()
		status, body := call(t, "", "GET", s.HTTP+"/restaurants", "")
		require.Equal(t, 200, status)
		require.Equal(t, 3, strings.Count(body, `"id"`))
	}
}

func TestAliveButNotReadyWithoutADatabase(t *testing.T) {
	t.Parallel()
	env := settings(t, authntest.New(t), "postgres://tiffin:secret@127.0.0.1:1/order_db?sslmode=disable", "")
	s := servicetest.Launch(t, run, env)
	status, _ := call(t, "", "GET", s.Admin+"/livez", "")
	require.Equal(t, 200, status)
	until(t, func() bool { // the first probes may come before the checks are known
		status, body := call(t, "", "GET", s.Admin+"/readyz", "")
		require.Equal(t, 503, status)
		return strings.Contains(body, "migrations")
	})
	until(t, func() bool { return strings.Contains(s.Logs(), "database not ready, trying again") })
	require.NotContains(t, s.Logs(), "secret")
}

func TestEveryWrongSettingIsTold(t *testing.T) {
	t.Parallel()
	_, err := loadConfig(func(name string) string {
		return map[string]string{
			"HTTP_ADDR": "x", "DATABASE_URL": "mysql://", "ORDER_PAYMENT_DEADLINE": "soon", "SEED_DEMO_DATA": "perhaps", "RETRY_DELAYS": "1s",
		}[name]
	})
	for _, name := range []string{"HTTP_ADDR", "DATABASE_URL", "ORDER_PAYMENT_DEADLINE", "SEED_DEMO_DATA", "RETRY_DELAYS"} {
		require.ErrorContains(t, err, name)
	}
	cfg, err := loadConfig(func(string) string { return "" })
	require.NoError(t, err)
	require.True(t, cfg.SeedDemoData, "with no settings there is something to order")
	elsewhere, err := loadConfig(func(name string) string {
		return map[string]string{"DATABASE_URL": "postgres://db/order_db"}[name]
	})
	require.NoError(t, err)
	require.False(t, elsewhere.SeedDemoData)
	require.Equal(t, ":5002", cfg.HTTPAddr)
	require.Greater(t, cfg.PaymentDeadline, cfg.retryTime(), "an order outlives all retries of its payment")
}
