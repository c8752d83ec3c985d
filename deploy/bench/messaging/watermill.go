//go:build unix

package messaging

import (
	"context"
	stdsql "database/sql"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wmkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/pkg/event"
)

// watermillSetup is one way to set Watermill up.
type watermillSetup struct {
	name  string
	tuned bool
	// lanes is the number of outbox tables, each with a forwarder of its own:
	// one forwarder sends one message after the other and waits for Kafka each
	// time. A key stays in its lane, so its order stays too.
	lanes int
}

// Default is what Watermill's documentation shows: database/sql, batches of 100
// rows, a poll per second. Tuned is pgx, batches of 1000 rows, a poll every 5
// ms, bytea instead of json, Kafka's current protocol; with 8 lanes, which is
// past where more lanes helped on two cores.
var watermills = []watermillSetup{
	{name: "Watermill, default", lanes: 1},
	{name: "Watermill, tuned", tuned: true, lanes: 1},
	{name: "Watermill, tuned, 8 forwarders", tuned: true, lanes: 8},
}

// protocol of the tuned setup. With newer ones sarama cannot read the embedded
// broker's group answers.
var protocol = sarama.V2_1_0_0

const keyField = "key" // where the record's key travels in Watermill's metadata

func (w watermillSetup) schema() wmsql.DefaultPostgreSQLSchema {
	if !w.tuned {
		return wmsql.DefaultPostgreSQLSchema{}
	}
	return wmsql.DefaultPostgreSQLSchema{
		SubscribeBatchSize:  1000,
		GeneratePayloadType: func(string) string { return "BYTEA" },
	}
}

func (w watermillSetup) lane(i int) string { return fmt.Sprintf("outbox_%d", i) }

func (w watermillSetup) laneOf(key string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return w.lane(int(h.Sum32() % uint32(w.lanes)))
}

func (w watermillSetup) beginner(pool *pgxpool.Pool) (wmsql.Beginner, func()) {
	if w.tuned {
		return wmsql.BeginnerFromPgx(pool), func() {}
	}
	db := stdlib.OpenDBFromPool(pool)
	return wmsql.BeginnerFromStdSQL(db), func() { _ = db.Close() }
}

// prepare makes the outbox tables.
func (w watermillSetup) prepare(ctx context.Context, pool *pgxpool.Pool) error {
	db, done := w.beginner(pool)
	defer done()
	sub, err := w.subscriber(db)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	for i := range w.lanes {
		if err := sub.SubscribeInitialize(w.lane(i)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (w watermillSetup) subscriber(db wmsql.Beginner) (*wmsql.Subscriber, error) {
	cfg := wmsql.SubscriberConfig{
		SchemaAdapter: w.schema(), OffsetsAdapter: wmsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true,
	}
	if w.tuned {
		cfg.PollInterval = 5 * time.Millisecond
	}
	return wmsql.NewSubscriber(db, cfg, watermill.NopLogger{})
}

func toMessage(ctx context.Context, e event.Event) *message.Message {
	m := message.NewMessage(e.ID.String(), e.Data)
	m.SetContext(ctx)
	m.Metadata.Set(keyField, e.Subject)
	for _, h := range e.Headers() {
		m.Metadata.Set(h.Key, h.Value)
	}
	return m
}

// emit writes events in a transaction, each to the lane of its key.
func (w watermillSetup) emit(ctx context.Context, tx wmsql.ContextExecutor, topic string, events ...event.Event) error {
	pub, err := wmsql.NewPublisher(tx, wmsql.PublisherConfig{SchemaAdapter: w.schema()}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	lanes := map[string][]*message.Message{}
	for _, e := range events {
		lane := w.laneOf(e.Subject)
		lanes[lane] = append(lanes[lane], toMessage(ctx, e))
	}
	for lane, messages := range lanes {
		if err := forwarder.NewPublisher(pub, forwarder.PublisherConfig{ForwarderTopic: lane}).Publish(topic, messages...); err != nil {
			return err
		}
	}
	return nil
}

func byKey() wmkafka.MarshalerUnmarshaler {
	return wmkafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
		return m.Metadata.Get(keyField), nil
	})
}

// forward runs the forwarders until ctx ends.
func (b *bench) forward(ctx context.Context, w watermillSetup, pool *pgxpool.Pool) error {
	cfg := wmkafka.PublisherConfig{Brokers: b.Kafka.Brokers, Marshaler: byKey(), OverwriteSaramaConfig: wmkafka.DefaultSaramaSyncPublisherConfig()}
	if w.tuned {
		cfg.OverwriteSaramaConfig.Version = protocol
	}
	pub, err := wmkafka.NewPublisher(cfg, watermill.NopLogger{})
	if err != nil {
		return err
	}
	defer func() { _ = pub.Close() }()
	db, done := w.beginner(pool)
	defer done()
	g, ctx := errgroup.WithContext(ctx)
	for i := range w.lanes {
		g.Go(func() error {
			sub, err := w.subscriber(db)
			if err != nil {
				return err
			}
			f, err := forwarder.NewForwarder(sub, pub, watermill.NopLogger{}, forwarder.Config{ForwarderTopic: w.lane(i), CloseTimeout: 5 * time.Second})
			if err != nil {
				return err
			}
			return f.Run(ctx)
		})
	}
	return g.Wait()
}

func (b *bench) relayWatermill(ctx context.Context, w watermillSetup) (measure.Result, error) {
	pool, closePool, err := b.theirs(ctx, 4+w.lanes)
	if err != nil {
		return nil, err
	}
	defer closePool()
	topic, drop, err := b.topic(ctx)
	if err != nil {
		return nil, err
	}
	defer drop()
	if err := w.prepare(ctx, pool); err != nil {
		return nil, err
	}
	err = inChunks(ctx, b.o.Backlog, func(from, to int) error {
		events := make([]event.Event, 0, to-from)
		for i := from; i < to; i++ {
			events = append(events, newEvent(topic, i))
		}
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			return w.emit(ctx, wmsql.TxFromPgx(tx), topic, events...)
		})
	})
	if err != nil {
		return nil, err
	}
	return b.drain(ctx, pool, topic, func(ctx context.Context) error { return b.forward(ctx, w, pool) })
}

// receive runs a consumer group of Watermill with handle until ctx ends.
func (b *bench) receive(ctx context.Context, tuned bool, topic, group string, handle message.NoPublishHandlerFunc) error {
	cfg := wmkafka.SubscriberConfig{
		Brokers: b.Kafka.Brokers, Unmarshaler: byKey(), ConsumerGroup: group, OverwriteSaramaConfig: wmkafka.DefaultSaramaSubscriberConfig(),
	}
	cfg.OverwriteSaramaConfig.Consumer.Offsets.Initial = sarama.OffsetOldest // or what was written before is lost
	if tuned {
		cfg.OverwriteSaramaConfig.Version = protocol
	}
	sub, err := wmkafka.NewSubscriber(cfg, watermill.NopLogger{})
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 5 * time.Second}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	router.AddConsumerHandler("effects", topic, sub, handle)
	return router.Run(ctx)
}

const (
	sqlHandled = `insert into handled (event_id) values ($1) on conflict do nothing`
	sqlEffect  = `insert into effects (event_id, order_id, note) values ($1, $2, $3)`
)

// applyStd handles a message as Watermill's examples do: database/sql, one
// statement after the other.
func applyStd(ctx context.Context, db *stdsql.DB, id string, p placed) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after the commit
	result, err := tx.ExecContext(ctx, sqlHandled, id)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err
	}
	if _, err := tx.ExecContext(ctx, sqlEffect, id, p.OrderID.String(), p.Note); err != nil {
		return err
	}
	return tx.Commit()
}

// applyPipelined does it in one round trip, which is the least that one
// transaction per message can cost: one statement does both, or nothing.
func applyPipelined(ctx context.Context, pool *pgxpool.Pool, id string, p placed) error {
	_, err := pool.Exec(ctx, `with first as (`+sqlHandled+` returning event_id)
		insert into effects (event_id, order_id, note) select event_id, $2::uuid, $3::text from first`, id, p.OrderID, p.Note)
	return err
}
