// Command notification-service tells users what happens to their accounts,
// orders and payments; see README.md.
package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/notification-service/internal/api"
	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/service"
)

// The service asks itself to deliver: under load a mail may wait this long for
// others, which then share transactions.
const pace = 200 * time.Millisecond

// Each user of a batch is a lock until COMMIT, and the server's table of them is
// shared: a local one has room for 6000 to 8000, and five batches run in a replica.
const batchRecords = 100

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
	o.Health.Decisive("postgres", func(ctx context.Context) error { return postgres.Ping(ctx, pool) })
	started := o.Health.Gate("migrations")
	if err := postgres.MigrateWait(ctx, pool, notification.Migrations, o.Log); err != nil {
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
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{Pace: pace}, o.Log, o.Registry)
	channel, err := newChannel(cfg, o.Log)
	if err != nil {
		return err
	}
	svc := notification.NewService(db, bell, channel)
	cfg.Consumer.BatchRecords = batchRecords
	consumer, err := kafka.NewConsumer(cfg.Kafka, cfg.Consumer, db, o.Log, o.Registry, api.Subscriptions(svc)...)
	if err != nil {
		return err
	}
	o.Health.Reported("kafka", consumer.Health)
	verifier := authn.NewVerifier(cfg.Authn, authn.NewKeySet(), o.Log, o.Registry)
	o.Health.Reported("keys", func(context.Context) error { return verifier.Ready() })
	l, err := httpx.Listen(ctx, cfg.HTTPAddr)
	if err != nil {
		return service.Ended(ctx, err)
	}
	started()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bell.Run(ctx) })
	g.Go(func() error { return relay.Run(ctx) })
	g.Go(func() error { return consumer.Run(ctx) })
	g.Go(func() error { return verifier.Run(ctx) })
	g.Go(func() error {
		return httpx.ServeListener(ctx, l, api.Routes(svc, verifier, o.Log, o.Registry), o.Log)
	})
	return g.Wait()
}

func newChannel(cfg Config, log *slog.Logger) (notification.Channel, error) {
	if cfg.Channel == "smtp" {
		return notification.NewSMTP(cfg.SMTP)
	}
	return notification.NewLog(log), nil
}
