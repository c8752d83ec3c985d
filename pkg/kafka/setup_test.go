package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// schema has no unique key on purpose: an effect that happens twice is seen.
var schema = fstest.MapFS{"00001_effects.sql": {Data: []byte(`-- +goose Up
create table effects (seq bigint generated always as identity primary key, event_id uuid not null, key text not null, note text not null);
create table ledger (call text not null);
create table strict (note text not null, amount int check (amount > 0), unique (note) deferrable initially deferred);
`)}}

const (
	group   = "kitchen"
	dlq     = "kitchen.failed.dlq"
	topic   = event.TypeOrderCancelled
	number  = 7
	waitFor = time.Minute // a bound for broken code, not a measure: machines are slow at times
	tick    = 10 * time.Millisecond
)

// delays are short enough for tests and long enough to be seen.
var delays = []time.Duration{80 * time.Millisecond, 120 * time.Millisecond, 160 * time.Millisecond}

type rig struct {
	t      *testing.T
	broker *kafkatest.Broker
	cfg    kafka.Config
	pool   *pgxpool.Pool
	db     *outbox.DB
	client *kgo.Client // of the relay and of tests that produce
	reg    *prometheus.Registry
	cc     kafka.ConsumerConfig
	log    *slog.Logger
}

// setup gives a broker, a database and a running relay.
func setup(t *testing.T) *rig {
	t.Parallel()
	r := setupWithoutRelay(t)
	r.relay()
	return r
}

// setupOnePartition is setup for tests whose events have to meet in one batch.
func setupOnePartition(t *testing.T) *rig { return setupPartitions(t, 1) }

func setupPartitions(t *testing.T, n int) *rig {
	t.Parallel()
	broker := kafkatest.Start(t)
	broker.Partitions = n
	r := newRig(t, broker, pgtest.New(t, schema))
	r.relay()
	return r
}

func setupWithoutRelay(t *testing.T) *rig {
	return newRig(t, kafkatest.Start(t), pgtest.New(t, schema))
}

func newRig(t *testing.T, broker *kafkatest.Broker, pool *pgxpool.Pool) *rig {
	r := &rig{t: t, broker: broker, cfg: broker.Config, pool: pool, reg: prometheus.NewRegistry(), log: logger()}
	r.db = outbox.NewDB(pool, postgres.NewDoorbell(pool, r.log))
	r.cc = settings()
	var err error
	r.client, err = kafka.NewClient(r.cfg, "test", r.log, nil, kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	require.NoError(t, err)
	t.Cleanup(r.client.Close)
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, topic))
	return r
}

func settings() kafka.ConsumerConfig {
	return kafka.ConsumerConfig{
		Group: group, DLQ: dlq, RetryDelays: delays,
		SweepInterval: 50 * time.Millisecond, OverdueAfter: time.Hour, WatchInterval: 50 * time.Millisecond,
	}
}

func logger() *slog.Logger {
	if os.Getenv("TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// relay publishes the outbox until the end of the test.
func (r *rig) relay() {
	relay := outbox.NewRelay(r.db, r.client, outbox.RelayConfig{}, r.log, prometheus.NewRegistry())
	r.background(relay.Run)
}

// background runs f until the returned function is called or the test ends.
func (r *rig) background(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("run: %v", err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// consume runs a consumer of subs until stop is called or the test ends.
func (r *rig) consume(subs ...kafka.Subscription) (stop func()) {
	r.t.Helper()
	r.reg = prometheus.NewRegistry()
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, r.reg, subs...)
	require.NoError(r.t, err)
	return r.background(c.Run)
}

// order returns an event about an order; note tells events apart.
func order(id uuid.UUID, note string) event.Event {
	return event.New("test", event.OrderCancelled{OrderID: id, Reason: note})
}

// produce writes an event to its topic as the relay would.
func (r *rig) produce(events ...event.Event) {
	r.t.Helper()
	records := make([]*kgo.Record, len(events))
	for i, e := range events {
		records[i] = record(e)
	}
	r.produceRecords(records...)
}

func (r *rig) produceRecords(records ...*kgo.Record) {
	r.t.Helper()
	for left := records; len(left) > 0; {
		results := r.client.ProduceSync(r.t.Context(), left...)
		left = nil
		for _, res := range results {
			if errors.Is(res.Err, kerr.UnknownTopicID) || errors.Is(res.Err, kerr.UnknownTopicOrPartition) { // it is new, and one of several nodes has not heard of it
				left = append(left, res.Record)
				continue
			}
			require.NoError(r.t, res.Err)
		}
		r.client.PurgeTopicsFromProducing(topicsOf(left)...)
	}
}

func topicsOf(records []*kgo.Record) (topics []string) {
	for _, rec := range records {
		topics = append(topics, rec.Topic)
	}
	return topics
}

func record(e event.Event) *kgo.Record {
	rec := &kgo.Record{Topic: e.Type, Key: []byte(e.Subject), Value: e.Data}
	for _, h := range e.Headers() {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
	}
	return rec
}

// effect is what the tests' handlers write.
func effect(tx *outbox.Tx, e event.Event, note string) {
	tx.Queue(`insert into effects (event_id, key, note) values ($1, $2, $3)`, [16]byte(e.ID), e.Subject, note)
}

// apply is a handler without faults.
func apply(_ context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
	effect(tx, e, p.Reason)
	return nil
}

// notes returns the effects on an order, in their order.
func (r *rig) notes(id uuid.UUID) []string {
	rows, err := r.pool.Query(context.Background(), `select note from effects where key = $1 order by seq`, id.String())
	require.NoError(r.t, err)
	notes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(r.t, err)
	return notes
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	require.NoError(r.t, r.pool.QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	require.Eventually(r.t, ok, waitFor, tick, what)
}

// metric sums a counter or gauge over the series that have all of labels.
func (r *rig) metric(name string, labels map[string]string) (sum float64) {
	families, err := r.reg.Gather()
	require.NoError(r.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := map[string]string{}
			for _, l := range m.GetLabel() {
				has[l.GetName()] = l.GetValue()
			}
			if maps.Equal(has, mergedWith(has, labels)) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func mergedWith(a, b map[string]string) map[string]string {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

func (r *rig) results(result string) int {
	return int(r.metric("tiffin_consumer_records_total", map[string]string{"result": result}))
}

// read returns n records of a topic, and fails when they do not come.
func (r *rig) read(topic string, n int) []*kgo.Record {
	r.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.cfg.Brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	require.NoError(r.t, err)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitFor)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n {
		f := cl.PollFetches(ctx)
		require.NoError(r.t, ctx.Err(), "%d of %d records of %s came", len(records), n, topic)
		records = append(records, f.Records()...)
	}
	return records
}

// size returns how many records a topic holds.
func (r *rig) size(topic string) (n int64) {
	for _, end := range r.ends(topic) {
		n += end
	}
	return n
}

// ends returns the next offset of each partition of a topic; none without it.
func (r *rig) ends(topic string) []int64 {
	listed, err := r.broker.Admin.ListEndOffsets(context.Background(), topic)
	if err != nil || listed.Error() != nil {
		return nil
	}
	var ends []int64
	for _, p := range listed.Offsets().Sorted() {
		ends = append(ends, p.At)
	}
	return ends
}

// committed tells whether the group has committed the end of every topic that
// it reads.
func (r *rig) committed(topics ...string) bool {
	commits, err := r.broker.Admin.FetchOffsets(context.Background(), group)
	if err != nil {
		return false
	}
	for _, t := range topics {
		for p, end := range r.ends(t) {
			if c, ok := commits.Lookup(t, int32(p)); end > 0 && (!ok || c.At != end) {
				return false
			}
		}
	}
	return true
}

// exists tells whether a topic exists.
func (r *rig) exists(topic string) bool { return len(r.ends(topic)) > 0 }

// members returns how many members the group has, 0 while it rebalances.
func (r *rig) members() int {
	described, err := r.broker.Admin.DescribeGroups(context.Background(), group)
	if err != nil || described[group].State != "Stable" {
		return 0
	}
	return len(described[group].Members)
}

// setting returns a topic's setting.
func (r *rig) setting(topic, name string) string {
	r.t.Helper()
	configs, err := r.broker.Admin.DescribeTopicConfigs(r.t.Context(), topic)
	require.NoError(r.t, err)
	for _, c := range configs[0].Configs {
		if c.Key == name {
			return c.MaybeValue()
		}
	}
	return ""
}

func header(rec *kgo.Record, name string) string {
	i := slices.IndexFunc(rec.Headers, func(h kgo.RecordHeader) bool { return h.Key == name })
	if i < 0 {
		return ""
	}
	return string(rec.Headers[i].Value)
}

// original returns a record's headers without those that this package adds.
func original(headers []kgo.RecordHeader) []kgo.RecordHeader {
	return slices.DeleteFunc(slices.Clone(headers), func(h kgo.RecordHeader) bool { return inbox.IsOwn(h.Key) })
}

func names(n int, prefix string) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("%s%d", prefix, i))
	}
	return list
}
