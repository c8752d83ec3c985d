// Command order-service owns restaurants, menus, orders and their timelines.
package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/order-service/internal/api"
	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/service"
)

// Under load the relay publishes the events of this time together, which costs
// little more than one of them, also for those who consume them. Every order
// begins here, so it is the one place to gather: what the payment service answers
// comes together as well, after about 20 ms, and is told with the orders that came
// meanwhile. The answers set the pace, and where none come pace does.
const (
	pace       = 80 * time.Millisecond
	answerPace = 20 * time.Millisecond
)

func main() {
	service.Main(name, adminAddr, run, deadletter.SubCommand(name, defaultDatabase))
}

func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	cfg, err := loadConfig(getenv)
	if err != nil {
		return err
	}
	o, err := obs.Start(ctx, cfg.Obs, stdout)
	if err != nil {
		return err
	}
	defer o.Close()
	if cfg.PaymentDeadline <= cfg.retryTime() {
		o.Log.Warn("ORDER_PAYMENT_DEADLINE is not longer than all RETRY_DELAYS together: orders may be cancelled while their payment is still retried",
			"deadline", cfg.PaymentDeadline.String(), "retries", cfg.retryTime().String())
	}

	pool, err := postgres.Open(ctx, cfg.Postgres)
	if err != nil {
		return err
	}
	defer pool.Close()
	o.Health.Decisive("postgres", func(ctx context.Context) error { return postgres.Ping(ctx, pool) })
	started := o.Health.Gate("migrations")
	if err := postgres.MigrateWait(ctx, pool, order.Migrations, o.Log); err != nil {
		return service.Ended(ctx, err)
	}

	bell := postgres.NewDoorbell(pool, o.Log)
	db := outbox.NewDB(pool, bell)
	client, err := kafka.NewClient(cfg.Kafka, name, o.Log, o.Registry)
	if err != nil {
		return err
	}
	defer client.Close()
	o.Admin.Mount("/dlq", deadletter.NewStore(db, name).Routes())
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{Pace: pace, BatchPace: answerPace}, o.Log, o.Registry)
	orders := order.NewService(db, cfg.PaymentDeadline, o.Log, time.Now)
	consumer, err := kafka.NewConsumer(cfg.Kafka, cfg.Consumer, db, o.Log, o.Registry, api.Subscriptions(orders)...)
	if err != nil {
		return err
	}
	verifier := authn.NewVerifier(cfg.Auth, authn.NewKeySet(), o.Log, o.Registry)
	o.Health.Reported("kafka", consumer.Health)
	o.Health.Reported("keys", func(context.Context) error { return verifier.Ready() })
	if cfg.SeedDemoData {
		seed(ctx, orders, o.Log)
	}
	l, err := httpx.Listen(ctx, cfg.HTTPAddr)
	if err != nil {
		return service.Ended(ctx, err)
	}
	started()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bell.Run(ctx) })
	g.Go(func() error { return service.Ended(ctx, kafka.EnsureTopics(ctx, client, cfg.Kafka, api.Topics()...)) })
	g.Go(func() error { return relay.Run(ctx) })
	g.Go(func() error { return consumer.Run(ctx) })
	g.Go(func() error { return verifier.Run(ctx) })
	g.Go(func() error { return orders.Run(ctx) })
	g.Go(func() error {
		return httpx.ServeListener(ctx, l, api.Routes(orders, bell, verifier, o.Log, o.Registry), o.Log)
	})
	return g.Wait()
}

// seed stores the demo catalogue, as often as it takes.
func seed(ctx context.Context, orders *order.Service, log *slog.Logger) {
	for {
		err := orders.SeedDemo(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Warn("demo data not stored, trying again", "error", err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
