// Command payment-service charges orders and gives money back; see README.md.
package main

import (
	"context"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/payment-service/internal/api"
	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/payment-service/internal/stripe"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/service"
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

	pool, err := postgres.Open(ctx, cfg.Postgres)
	if err != nil {
		return err
	}
	defer pool.Close()
	provider, closeProvider, err := openProvider(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeProvider()
	o.Health.Decisive("postgres", func(ctx context.Context) error { return postgres.Ping(ctx, pool) })
	started := o.Health.Gate("migrations")
	if err := postgres.MigrateWait(ctx, pool, payment.Migrations, o.Log); err != nil {
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
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{}, o.Log, o.Registry)
	payments, err := payment.NewService(db, provider, cfg.Payment, o.Log, o.Registry, time.Now)
	if err != nil {
		return err
	}
	consumer, err := kafka.NewConsumer(cfg.Kafka, cfg.Consumer, db, o.Log, o.Registry, api.Subscriptions(payments)...)
	if err != nil {
		return err
	}
	verifier := authn.NewVerifier(cfg.Auth, authn.NewKeySet(), o.Log, o.Registry)
	o.Health.Reported("kafka", consumer.Health)
	o.Health.Reported("keys", func(context.Context) error { return verifier.Ready() })
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
	g.Go(func() error { return payments.Run(ctx) })
	g.Go(func() error {
		return httpx.ServeListener(ctx, l, api.Routes(payments, verifier, o.Log, o.Registry), o.Log)
	})
	return g.Wait()
}

// openProvider returns the provider that is set, and what closes it.
func openProvider(ctx context.Context, cfg Config) (payment.Provider, func(), error) {
	if cfg.Payment.ProviderName == stripe.Name {
		return stripe.New(cfg.StripeKey, cfg.StripeBase), func() {}, nil
	}
	// Its own connections: it must not see, or wait for, the service's transactions.
	own := cfg.Postgres
	own.MaxConns = 4
	pool, err := postgres.Open(ctx, own)
	if err != nil {
		return nil, nil, err
	}
	return simulator.New(pool, cfg.SimulatorLatency), pool.Close, nil
}
