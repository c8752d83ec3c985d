package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is the service's surroundings: a broker, a database, keys.
type rig struct {
	t        *testing.T
	issuer   *authntest.Issuer
	settings map[string]string
	pool     *pgxpool.Pool // for looking, not the service's
	client   *kgo.Client
}

func setup(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	broker := kafkatest.New(t)
	r := &rig{t: t, issuer: authntest.New(t)}
	url := pgtest.URL(t, payment.Migrations)
	r.settings = map[string]string{
		"DATABASE_URL": url, "KAFKA_BROKERS": broker.Brokers[0], "KAFKA_TOPIC_PARTITIONS": "3", "KAFKA_TOPIC_REPLICATION": "1",
		"JWKS_URL": r.issuer.Server(), "JWT_ISSUER": authntest.TestIssuer, "JWT_AUDIENCE": authntest.TestAudience,
		"RETRY_DELAYS": "50ms,50ms,50ms",
	}
	var err error
	r.pool, err = postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 2})
	require.NoError(t, err)
	t.Cleanup(r.pool.Close)
	r.client, err = kgo.NewClient(kgo.SeedBrokers(broker.Brokers...), kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.ConsumeTopics("payment.failed.dlq"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.MetadataMaxAge(200*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, broker, event.TypeOrderCreated, event.TypeOrderCancelled))
	return r
}

func (r *rig) boot(extra ...string) *servicetest.Running {
	r.t.Helper()
	settings := maps.Clone(r.settings)
	for i := 0; i < len(extra); i += 2 {
		settings[extra[i]] = extra[i+1]
	}
	return servicetest.Boot(r.t, run, settings)
}

func (r *rig) produce(events ...event.Event) {
	r.t.Helper()
	var records []*kgo.Record
	for _, e := range events {
		rec := &kgo.Record{Topic: e.Type, Key: []byte(e.Subject), Value: e.Data}
		for _, h := range e.Headers() {
			rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
		}
		records = append(records, rec)
	}
	require.NoError(r.t, r.client.ProduceSync(r.t.Context(), records...).FirstErr())
}

// order is an order and the events about it.
type order struct {
	id                 uuid.UUID
	customer           uuid.UUID
	created, cancelled event.Event
}

func newOrder(method string) order {
	o := order{id: uuid.Must(uuid.NewV7()), customer: uuid.Must(uuid.NewV7())}
	o.created = event.New("order-service", event.OrderCreated{OrderID: o.id, CustomerID: o.customer, Total: 1900, Currency: "EUR", PaymentMethod: method})
	o.cancelled = event.New("order-service", event.OrderCancelled{OrderID: o.id, CustomerID: o.customer, Reason: "customer"})
	return o
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	require.NoError(r.t, r.pool.QueryRow(r.t.Context(), sql, args...).Scan(&n))
	return n
}

func (r *rig) await(o order, want payment.Status) {
	r.t.Helper()
	r.until("payment is "+string(want), func() bool {
		return r.count(`select count(*) from payments where order_id = $1 and status = $2`, o.id, want) == 1
	})
}

// until waits in the test's own goroutine, so that a condition may use require.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			require.Fail(r.t, "timed out waiting: "+what)
		}
	}
}

// told lists what was emitted about an order.
func (r *rig) told(o order) []string {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), `select topic from msg.outbox where key = $1 and topic like 'payment.%' and topic <> 'payment.failed.dlq' order by seq`, []byte(o.id.String()))
	require.NoError(r.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(r.t, err)
	return list
}

// holds compares the simulator's books with the rows, for all orders.
func (r *rig) holds() {
	r.t.Helper()
	require.Zero(r.t, r.count(`select count(*) from (select from simulator.charges group by key having count(*) > 1) x`), "charged twice")
	require.Zero(r.t, r.count(`select count(*) from payments p where (status = 'completed') <>
		((select coalesce(sum(amount), 0) from simulator.charges where key = p.order_id::text)
		- (select coalesce(sum(amount), 0) from simulator.voids where key = p.order_id::text) = amount and amount > 0)`), "money kept without a completed payment, or the other way round")
	require.Zero(r.t, r.count(`select count(*) from (select from msg.outbox where topic in ('payment.completed', 'payment.failed', 'payment.refunded')
		group by key, topic having count(*) > 1) x`), "told twice")
}

func (r *rig) get(url string, user uuid.UUID) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, url, nil)
	require.NoError(r.t, err)
	if user != uuid.Nil {
		req.Header.Set("Authorization", "Bearer "+r.issuer.Token(user, authn.Customer))
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(body)
}

// The service as it runs: charged once for a hundred deliveries, cancelled,
// refunded through its own topic, shown over HTTP.
func TestAPaymentsLifeOverKafkaAndHTTP(t *testing.T) {
	r := setup(t)
	s := r.boot()
	o := newOrder(simulator.Visa)
	for range 100 {
		r.produce(o.created)
	}
	r.await(o, payment.Completed)
	for range 10 {
		r.produce(o.cancelled)
	}
	r.await(o, payment.Refunded)
	require.Equal(t, []string{"payment.completed", "payment.refund_requested", "payment.refunded"}, r.told(o))
	require.Equal(t, 1, r.count(`select count(*) from simulator.charges`))
	require.Equal(t, 1, r.count(`select count(*) from simulator.voids`))
	r.holds()
	var body string
	r.until("the keys are there", func() bool {
		var status int
		status, body = r.get(s.HTTP+"/payments?order_id="+o.id.String(), o.customer)
		return status == http.StatusOK
	})
	var list struct{ Items []payment.Payment }
	require.NoError(t, json.Unmarshal([]byte(body), &list))
	require.Len(t, list.Items, 1)
	require.Equal(t, payment.Refunded, list.Items[0].Status)
}

func TestACancellationThatComesFirstChargesNothing(t *testing.T) {
	r := setup(t)
	r.boot()
	o := newOrder(simulator.Visa)
	r.produce(o.cancelled)
	r.await(o, payment.Voided)
	r.produce(o.created)
	after := newOrder(simulator.Visa) // of the same key's partition or not: it shows that the topic was read
	r.produce(after.created)
	r.await(after, payment.Completed)
	r.until("order.created is handled", func() bool {
		return r.count(`select count(*) from msg.processed_events where event_id = $1`, o.created.ID) == 1
	})
	require.Empty(t, r.told(o))
	require.Zero(t, r.count(`select count(*) from simulator.intents where key = $1`, o.id.String()))
	r.holds()
}

func TestAProviderThatFailsIsRetriedWhileOthersFlow(t *testing.T) {
	r := setup(t)
	r.boot()
	flaky, lost, fine := newOrder(simulator.ErrorTwice), newOrder(simulator.AnswerLost), newOrder(simulator.Visa)
	r.produce(flaky.created, lost.created, fine.created)
	for _, o := range []order{flaky, lost, fine} {
		r.await(o, payment.Completed)
		require.Equal(t, []string{"payment.completed"}, r.told(o))
	}
	require.Equal(t, 3, r.count(`select confirms from simulator.intents where key = $1`, flaky.id.String()))
	r.holds()
}

// Past one try and three retries order.created is a dead letter, with its bytes
// and its history; the order's deadline cancels it, and the payment is voided.
// Redriven later, the letter charges nothing.
func TestAProviderThatNeverAnswersEndsInADeadLetterAndAVoid(t *testing.T) {
	r := setup(t)
	s := r.boot()
	o := newOrder(simulator.Timeout)
	r.produce(o.created)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var letter *kgo.Record
	for letter == nil {
		fetches := r.client.PollFetches(ctx)
		require.NoError(t, ctx.Err())
		fetches.EachRecord(func(rec *kgo.Record) { letter = rec })
	}
	require.Equal(t, o.created.Data, letter.Value)
	headers := map[string]string{}
	for _, h := range letter.Headers {
		headers[h.Key] = string(h.Value)
	}
	require.Equal(t, o.created.ID.String(), headers["ce_id"])
	require.Equal(t, "3", headers["x-retry-count"])
	require.Equal(t, "order.created", headers["x-orig-topic"])
	require.Contains(t, headers["x-error-message"], "did not answer in time")
	require.Equal(t, 4, r.count(`select count(*) from simulator.calls where operation = 'confirm' and key = $1`, o.id.String()))

	r.produce(o.cancelled)
	r.await(o, payment.Voided)
	require.Equal(t, []string{"payment.refund_requested"}, r.told(o))
	r.holds()
	status, body := r.get(s.Admin+"/dlq", uuid.Nil)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, o.created.ID.String())
}

// Poison is dead at once and holds up nobody.
func TestAnEventThatNobodyWritesIsADeadLetterAtOnce(t *testing.T) {
	r := setup(t)
	r.boot("RETRY_DELAYS", "10m,10m,10m")
	bad := event.New("order-service", event.OrderCreated{OrderID: uuid.Must(uuid.NewV7()), CustomerID: uuid.Must(uuid.NewV7()), Total: -1, Currency: "EUR"})
	garbage := event.New("order-service", event.OrderCancelled{OrderID: uuid.Must(uuid.NewV7())})
	garbage.Data = []byte(`{"order_id":`)
	fine := newOrder(simulator.Visa)
	r.produce(bad, garbage, fine.created)
	r.await(fine, payment.Completed)
	r.until("both are dead letters", func() bool { return r.count(`select count(*) from msg.dead_letters`) == 2 })
	require.Equal(t, 1, r.count(`select count(*) from payments`))
}

// Two replicas, forty orders, half of them cancelled at once, a replica that
// stops in the middle and another that comes: every payment ends, and the books
// agree with the rows.
func TestReplicasShareTheWorkAndKeepTheBooks(t *testing.T) {
	r := setup(t)
	first := r.boot("SIMULATOR_LATENCY", "20ms")
	r.boot("SIMULATOR_LATENCY", "20ms")
	methods := []string{simulator.Visa, simulator.Declined, simulator.Mastercard, simulator.AnswerLost, simulator.ErrorTwice}
	const orders = 40
	for n := range orders {
		o := newOrder(methods[n%len(methods)])
		switch n % 4 {
		case 0:
			r.produce(o.created, o.cancelled)
		case 1:
			r.produce(o.cancelled, o.created)
		default:
			r.produce(o.created)
		}
		if n == orders/2 {
			first.Stop()
			r.boot()
		}
	}
	r.until("every payment has ended", func() bool {
		return r.count(`select count(*) from payments where status in ('completed', 'failed', 'voided', 'refunded')`) == orders &&
			r.count(`select count(*) from msg.processed_events where consumer in (1, 2) and attempt = 0`) >= orders+orders/2
	})
	r.holds()
	require.Zero(t, r.count(`select count(*) from msg.dead_letters`))
}

func TestARefundThatGotLostIsSwept(t *testing.T) {
	r := setup(t)
	o := newOrder(simulator.Visa)
	first := r.boot()
	r.produce(o.created)
	r.await(o, payment.Completed)
	first.Stop()
	// As if its payment.refund_requested had become a dead letter.
	_, err := r.pool.Exec(t.Context(), `update payments set status = 'refund_pending', refund_asks = 1, refund_due_at = now()`)
	require.NoError(t, err)
	r.boot("PAYMENT_REFUND_RETRY", "1s")
	r.await(o, payment.Refunded)
	r.holds()
}

func TestAliveButNotReadyWithoutADatabase(t *testing.T) {
	t.Parallel()
	s := servicetest.Launch(t, run, map[string]string{
		"DATABASE_URL":  "postgres://tiffin:tiffin@127.0.0.1:1/payment_db?sslmode=disable",
		"KAFKA_BROKERS": "127.0.0.1:1",
	})
	r := &rig{t: t}
	status, _ := r.get(s.Admin+"/livez", uuid.Nil)
	require.Equal(t, http.StatusOK, status)
	status, body := r.get(s.Admin+"/readyz", uuid.Nil)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "postgres")
	s.Stop() // and it stops cleanly while it waits
}

func TestReplicasMigrateAnEmptyDatabaseAtOnce(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"DATABASE_URL": pgtest.Empty(t), "KAFKA_BROKERS": "127.0.0.1:1"}
	first, second := servicetest.Launch(t, run, settings), servicetest.Launch(t, run, settings)
	first.WaitReady() // without a broker, too
	second.WaitReady()
}

func TestAWrongSettingEndsTheStart(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), from(map[string]string{"PAYMENT_PROVIDER": "cash"}), io.Discard)
	require.ErrorContains(t, err, "PAYMENT_PROVIDER")
}

func TestItStartsWithStripe(t *testing.T) {
	r := setup(t)
	s := r.boot("PAYMENT_PROVIDER", "stripe", "STRIPE_API_KEY", "sk_test_1", "STRIPE_API_BASE", "http://127.0.0.1:1")
	o := newOrder(simulator.Visa)
	r.produce(o.created)
	r.until("the charge is retried, not lost", func() bool { return r.count(`select count(*) from msg.dead_letters`) == 1 })
	require.NotContains(t, s.Logs(), "sk_test_1")
}
