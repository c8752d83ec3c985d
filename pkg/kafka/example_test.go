package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// A group with one subscription: constructors do no I/O, Run does everything.
func Example() {
	r := env.New(func(string) string { return "" }) // os.Getenv
	cfg, cc := kafka.ConfigFrom(r), kafka.ConsumerConfigFrom(r, "kitchen", "kitchen.failed.dlq")
	if err := r.Err(); err != nil {
		fmt.Println(err)
		return
	}
	pool, err := pgxpool.New(context.Background(), "postgres://localhost/kitchen")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()

	const cookOrder = 1 // this consumer's number, for ever
	consumer, err := kafka.NewConsumer(cfg, cc, outbox.NewDB(pool, nil), slog.Default(), nil,
		kafka.On(cookOrder, event.TypeOrderCreated, func(_ context.Context, tx *outbox.Tx, e event.Event, p event.OrderCreated) error {
			if len(p.Items) == 0 {
				return kafka.Permanent(errors.New("an order without items"))
			}
			tx.Queue(`insert into tickets (order_id, placed_at) values ($1, $2)`, p.OrderID, e.Time)
			return nil
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strings.Join(consumer.Topics(), "\n"))
	// and then: err = consumer.Run(ctx)

	// Output:
	// kitchen.retry.1
	// kitchen.retry.2
	// kitchen.retry.3
	// order.created
	// kitchen.failed.dlq
}

// A handler that calls a provider: the call is outside of any transaction, what
// it returned is written inside.
func ExampleOnPrepared() {
	type receipt struct{ Ref string }
	charge := func(context.Context, string, int64) (receipt, error) { return receipt{"r1"}, nil }

	sub := kafka.OnPrepared(2, event.TypeOrderCreated,
		func(ctx context.Context, e event.Event, p event.OrderCreated) (receipt, error) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			// The event's id is the same for every attempt: the provider's
			// idempotency key.
			return charge(ctx, e.ID.String(), p.Total)
		},
		func(_ context.Context, tx *outbox.Tx, _ event.Event, p event.OrderCreated, r receipt) error {
			tx.Queue(`update payments set status = 'completed', ref = $2 where order_id = $1`, p.OrderID, r.Ref)
			return nil
		})
	fmt.Println(sub.Consumer, sub.Topic)
	// Output: 2 order.created
}

// Handlers that read rows: Load reads those of all events of a transaction in one
// round trip, and Apply finds them there.
func ExampleBySubject() {
	type cook string

	sub := kafka.On(3, event.TypeOrderCancelled,
		func(_ context.Context, tx *outbox.Tx, _ event.Event, p event.OrderCancelled) error {
			if c, ok := outbox.Kept[cook](tx, p.OrderID); ok {
				tx.Queue(`insert into calls (cook, text) values ($1, 'stop')`, c)
			}
			return nil
		})
	sub.Load = kafka.BySubject(func(ctx context.Context, tx *outbox.Tx, orders []uuid.UUID) error {
		rows, err := tx.Query(ctx, `select order_id, cook from tickets where order_id = any($1)`, orders)
		if err != nil {
			return err
		}
		var order uuid.UUID
		var c cook
		_, err = pgx.ForEachRow(rows, []any{&order, &c}, func() error {
			outbox.Keep(tx, order, c)
			return nil
		})
		return err
	})
	fmt.Println(sub.Consumer, sub.Topic)
	// Output: 3 order.cancelled
}
