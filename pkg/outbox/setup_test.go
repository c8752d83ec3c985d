package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// patience is how long a condition may take on a busy machine.
const patience = 30 * time.Second

const topic = event.TypeOrderStatusChanged

// world is one database and one broker.
type world struct {
	t      testing.TB
	pool   *pgxpool.Pool
	bell   *postgres.Doorbell
	db     *outbox.DB
	broker *kafkatest.Broker
	log    *slog.Logger
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldIn(t, pgtest.New(t, nil), kafkatest.Start(t))
}

func newWorldIn(t testing.TB, pool *pgxpool.Pool, broker *kafkatest.Broker) *world {
	t.Helper()
	w := &world{t: t, pool: pool, broker: broker, log: slog.New(slog.DiscardHandler)}
	if testing.Verbose() {
		w.log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	w.bell = postgres.NewDoorbell(w.pool, w.log)
	w.db = outbox.NewDB(w.pool, w.bell)
	w.createTopics(topic)
	return w
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	c, err := kgo.NewClient(append(clientOpts(w.broker.Brokers), opts...)...)
	require.NoError(w.t, err)
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) createTopics(names ...string) {
	w.t.Helper()
	adm := kadm.NewClient(w.client())
	require.Eventually(w.t, func() bool {
		made, err := adm.CreateTopics(w.t.Context(), 3, -1, nil, names...)
		require.NoError(w.t, err)
		// One that is there is of a test before, which not every node of a real
		// cluster had heard of when it was emptied.
		if errors.Is(made.Error(), kerr.TopicAlreadyExists) {
			_, err = adm.DeleteTopics(w.t.Context(), names...)
			require.NoError(w.t, err)
			return false
		}
		require.NoError(w.t, made.Error())
		return true
	}, patience, 100*time.Millisecond)
}

// relay returns a relay that does not run yet.
func (w *world) relay(cfg outbox.RelayConfig) *outbox.Relay {
	w.t.Helper()
	return outbox.NewRelay(w.db, w.client(), cfg, w.log, nil)
}

// run runs f until stop is called or the test ends, and waits for its end.
func run(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(patience):
			t.Error("did not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// emit writes one event per key in one transaction each.
func (w *world) emit(keys ...string) []event.Event {
	w.t.Helper()
	var all []event.Event
	for _, key := range keys {
		e := newEvent(key)
		require.NoError(w.t, w.db.InTx(w.t.Context(), func(tx *outbox.Tx) error {
			tx.Emit(w.t.Context(), e)
			return nil
		}))
		all = append(all, e)
	}
	return all
}

func newEvent(key string) event.Event {
	return event.Event{
		ID: uuid.Must(uuid.NewV7()), Type: topic, Source: "test", Subject: key,
		Time: time.Now().UTC(), Data: []byte(`{"order_id":"` + key + `"}`),
	}
}

// published reads every record of the topic so far, by partition in order.
func (w *world) published(topics ...string) []*kgo.Record {
	w.t.Helper()
	if len(topics) == 0 {
		topics = []string{topic}
	}
	client := w.client()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	require.NoError(w.t, err)
	var want int64
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		want += o.Offset
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().At(0)
	})
	reader := w.client(kgo.ConsumePartitions(from))
	var records []*kgo.Record
	for int64(len(records)) < want {
		f := reader.PollFetches(ctx)
		require.NoError(w.t, f.Err())
		records = append(records, f.Records()...)
	}
	return records
}

// backlog is how many rows a relay has not stored as published, -1 while the
// database does not answer.
func (w *world) backlog() int {
	n := -1
	_ = w.pool.QueryRow(context.Background(), `
		select (select count(*) from msg.outbox o where o.seq > c.pos) +
		       (select coalesce(sum(c.gaps[i+1] - c.gaps[i] + 1), 0) from generate_series(1, cardinality(c.gaps), 3) i)
		from msg.outbox_cursor c`).Scan(&n)
	return n
}

// drained waits until everything is published.
func (w *world) drained() {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.backlog() == 0 }, patience, 5*time.Millisecond)
}

// counting is a logger that counts warnings.
func counting(n *atomic.Int64) *slog.Logger { return slog.New(countHandler{slog.DiscardHandler, n}) }

type countHandler struct {
	slog.Handler
	n *atomic.Int64
}

func (h countHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h countHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn {
		h.n.Add(1)
	}
	return nil
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func keys(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("key-%d", i)
	}
	return list
}
