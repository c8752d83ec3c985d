//go:build unix

// Package messaging measures pkg's outbox relay and consumer against Watermill
// (watermill-sql with its forwarder, watermill-kafka) on the same PostgreSQL
// and the same broker, in interleaved rounds.
//
// Both sides do the same work: a business row and an event in one transaction;
// from the outbox to Kafka, keyed; from Kafka into an effect whose duplicate is
// refused by a table of processed ids in the same transaction. Watermill has no
// such table, so its handlers write one as its documentation advises.
package messaging

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/deploy/bench/rig"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// Options are sizes. A candidate that is slower by an order of magnitude gets
// fewer messages where the rate does not depend on their number.
type Options struct {
	Rounds       int
	Backlog      int           // events in the outbox when the relay starts
	Consume      int           // records in the topic for ours
	ConsumeOther int           // and for Watermill
	Rate         float64       // events per second in the latency runs
	Latency      time.Duration // how long each of them lasts
	Commit       time.Duration // how long each commit run lasts
	Writers      int           // concurrent writers in the commit runs
	Only         []string      // relay, latency, consume, commit; all when empty
}

// bench holds what all runs share.
type bench struct {
	*rig.Rig
	o     Options
	log   *slog.Logger
	admin *kadm.Client
}

const (
	order = "order.placed" // what the events of the runs are called
	keys  = 1000           // distinct keys of a backlog
)

// Run measures and prints the tables.
func Run(ctx context.Context, r *rig.Rig, o Options, out io.Writer, say func(string, ...any)) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Kafka.Brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	b := &bench{Rig: r, o: o, log: slog.New(slog.DiscardHandler), admin: kadm.NewClient(client)}
	for _, part := range []struct {
		name string
		run  func(context.Context, io.Writer, func(string, ...any)) error
	}{{"relay", b.relay}, {"latency", b.latency}, {"consume", b.consume}, {"commit", b.commit}} {
		if len(o.Only) > 0 && !strings.Contains(strings.Join(o.Only, ","), part.name) {
			continue
		}
		if err := part.run(ctx, out, say); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// schema is what the business has: orders to write, effects of handling them,
// and Watermill's table of handled messages. Like msg.processed_events it has
// the id as its key.
var schema = fstest.MapFS{"00001_business.sql": {Data: []byte(`-- +goose Up
create table orders (id uuid primary key, customer uuid not null, total bigint not null, placed_at timestamptz not null default now());
create table order_items (order_id uuid not null references orders, line int not null, dish text not null, price bigint not null, primary key (order_id, line));
create table effects (event_id uuid primary key, order_id uuid not null, note text not null);
create table handled (event_id uuid primary key, at timestamptz not null default now());
`)}}

// database makes a migrated database of its own for one run.
func (b *bench) database(ctx context.Context, conns int) (*pgxpool.Pool, func(), error) {
	return b.databaseWith(ctx, conns, "")
}

// theirs is database with the server's own settings of its planner instead of
// ours, which Watermill was not made for.
func (b *bench) theirs(ctx context.Context, conns int) (*pgxpool.Pool, func(), error) {
	return b.databaseWith(ctx, conns, "&plan_cache_mode=auto&enable_seqscan=on&jit=on")
}

func (b *bench) databaseWith(ctx context.Context, conns int, settings string) (*pgxpool.Pool, func(), error) {
	url, drop, err := b.Database(ctx)
	if err != nil {
		return nil, nil, err
	}
	pool, err := postgres.Open(ctx, postgres.Config{URL: url + settings, MaxConns: conns})
	if err == nil {
		err = postgres.Migrate(ctx, pool, schema)
	}
	if err != nil {
		drop()
		return nil, nil, err
	}
	return pool, func() {
		pool.Close()
		drop()
	}, nil
}

// topic makes a topic that nothing was written to.
func (b *bench) topic(ctx context.Context) (string, func(), error) {
	name := b.Name(order)
	client, err := kafka.NewClient(b.Kafka, "bench", b.log, nil)
	if err != nil {
		return "", nil, err
	}
	defer client.Close()
	if err := kafka.EnsureTopics(ctx, client, b.Kafka, name); err != nil {
		return "", nil, err
	}
	return name, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, _ = b.admin.DeleteTopics(ctx, name)
	}, nil
}

// written returns how many records a topic holds.
func (b *bench) written(ctx context.Context, topic string) (int, error) {
	ends, err := b.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	sum := 0
	ends.Each(func(o kadm.ListedOffset) {
		if err == nil {
			err = o.Err
		}
		sum += int(o.Offset)
	})
	return sum, err
}

// placed is the payload of every event: about 300 bytes of JSON.
type placed struct {
	Seq      int       `json:"seq"`
	OrderID  uuid.UUID `json:"order_id"`
	Customer uuid.UUID `json:"customer_id"`
	Address  string    `json:"address"`
	Note     string    `json:"note"`
	Total    int64     `json:"total"`
}

func payload(seq int, id uuid.UUID) []byte {
	data, err := json.Marshal(placed{
		Seq: seq, OrderID: id, Customer: uuid.Max, Address: "1 Lunch Lane, 10115 Berlin, DE, third floor, ring twice",
		Note: "no onions, please; leave the tiffin with the neighbour on the ground floor", Total: 1780,
	})
	if err != nil {
		panic(err) // strings and numbers only
	}
	return data
}

// newEvent makes the seqth event; its topic is its type.
func newEvent(topic string, seq int) event.Event {
	// One of a fixed number of aggregates.
	id := uuid.UUID{6: 0x40, 8: 0x80, 14: byte(seq % keys >> 8), 15: byte(seq % keys)}
	return event.Event{
		ID: uuid.Must(uuid.NewV7()), Type: topic, Source: "bench", Subject: id.String(), Time: time.Now().UTC(), Data: payload(seq, id),
	}
}

// record is the event as the relay would have written it.
func record(e event.Event) *kgo.Record {
	r := &kgo.Record{Topic: e.Type, Key: []byte(e.Subject), Value: e.Data}
	for _, h := range e.Headers() {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
	}
	return r
}

// background runs f; stop ends it and returns its error.
func background(ctx context.Context, f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// rows adds a row per case, with the figure's median, spread and its ratio
// to the reference.
func rows(t *measure.Table, s measure.Series, figure, reference string, cases []measure.Case) {
	ref := s.Median(reference, figure)
	for _, c := range cases {
		t.Add(c.Name, measure.Spread(s[c.Name][figure]), measure.Ratio(s.Median(c.Name, figure)/ref))
	}
}
