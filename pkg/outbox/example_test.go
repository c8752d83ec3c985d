package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// A service writes an order and the event about it in one transaction; the
// relay brings the event to Kafka.
func Example() {
	infra := startInfra() // a migrated database and a broker; a service has its settings
	defer infra.stop()
	pool, brokers, log := infra.pool, infra.brokers, slog.New(slog.DiscardHandler)

	bell := postgres.NewDoorbell(pool, log)
	db := outbox.NewDB(pool, bell)
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ProducerLinger(0)) // a service: kafka.NewClient
	if err != nil {
		panic(err)
	}
	defer client.Close()
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{}, log, nil)

	ctx, stop := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return bell.Run(ctx) })
	g.Go(func() error { return relay.Run(ctx) })

	// The right thing in one place: no event without the order, no order
	// without the event, whatever dies when.
	order := uuid.MustParse("01900000-0000-7000-8000-000000000001")
	err = db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.Queue(`insert into orders (id, status) values ($1, 'pending')`, order)
		tx.Emit(ctx, event.New("order-service", event.OrderCreated{OrderID: order, Total: 1900, Currency: "EUR"}))
		return nil
	})
	if err != nil {
		panic(err)
	}

	consumer, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(event.TypeOrderCreated),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		panic(err)
	}
	defer consumer.Close()
	record := consumer.PollFetches(ctx).Records()[0]
	fmt.Println(record.Topic, string(record.Key))

	stop()
	fmt.Println(g.Wait())
	// Output:
	// order.created 01900000-0000-7000-8000-000000000001
	// <nil>
}

// infra is what the example needs from outside.
type infra struct {
	testing.TB // only what pgtest calls is there
	pool       *pgxpool.Pool
	brokers    []string
	cleanups   []func()
}

func startInfra() *infra {
	i := &infra{}
	i.pool = pgtest.New(i, nil)
	broker := kfake.MustCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, event.TypeOrderCreated))
	i.Cleanup(broker.Close)
	i.brokers = broker.ListenAddrs()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := i.pool.Exec(ctx, `create table orders (id uuid primary key, status text not null)`); err != nil {
		panic(err)
	}
	return i
}

func (i *infra) Helper()                   {}
func (i *infra) Failed() bool              { return false }
func (i *infra) Logf(string, ...any)       {}
func (i *infra) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (i *infra) FailNow()                  { panic("failed") }
func (i *infra) Cleanup(f func())          { i.cleanups = append(i.cleanups, f) }

func (i *infra) stop() {
	for n := len(i.cleanups) - 1; n >= 0; n-- {
		i.cleanups[n]()
	}
}
