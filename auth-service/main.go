// Command auth-service owns users, their sessions and the keys that sign access
// tokens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/auth-service/internal/api"
	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
	"github.com/tiffin-platform/tiffin/auth-service/internal/auth/migrations"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/service"
)

func main() {
	service.Main(name, adminAddr, run, service.Command{
		Name:  "rotate-keys",
		Usage: "make a new signing key; with -revoke: at once, and void all others",
		Run:   rotateKeys,
	})
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
	if err := postgres.MigrateWait(ctx, pool, migrations.Files, o.Log); err != nil {
		return service.Ended(ctx, err)
	}
	bell := postgres.NewDoorbell(pool, o.Log)
	db := outbox.NewDB(pool, bell)

	client, err := kafka.NewClient(cfg.Kafka, name, o.Log, o.Registry)
	if err != nil {
		return err
	}
	defer client.Close()
	o.Health.Reported("kafka", client.Ping)
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{}, o.Log, o.Registry)

	keys := auth.NewKeys(db, bell, cfg.Keys, o.Log, o.Registry)
	svc, err := auth.NewService(db, keys, cfg.Auth, o.Log, o.Registry)
	if err != nil {
		return err
	}
	if err := prepare(ctx, cfg, keys, svc, o.Log); err != nil {
		return service.Ended(ctx, err)
	}
	o.Health.Decisive("signing_keys", keys.Ready)
	verifier := authn.NewVerifier(authn.Config{Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience}, keys.Set(), o.Log, o.Registry)
	l, err := httpx.Listen(ctx, cfg.HTTPAddr)
	if err != nil {
		return service.Ended(ctx, err)
	}
	started()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bell.Run(ctx) })
	g.Go(func() error { return relay.Run(ctx) })
	g.Go(func() error { return keys.Run(ctx) })
	g.Go(func() error { return svc.Prune(ctx) })
	g.Go(func() error { return verifier.Run(ctx) })
	g.Go(func() error {
		return service.Ended(ctx, kafka.EnsureTopics(ctx, client, cfg.Kafka, event.TypeUserRegistered))
	})
	g.Go(func() error {
		return httpx.ServeListener(ctx, l, api.Routes(svc, keys, verifier, cfg.TrustedProxies, o.Log, o.Registry), o.Log)
	})
	return g.Wait()
}

// prepare opens the keys and makes the first Admin, waiting while the database
// does not answer. Keys that cannot be read are an operator's matter: it ends.
func prepare(ctx context.Context, cfg Config, keys *auth.Keys, svc *auth.Service, log *slog.Logger) error {
	wait := 100 * time.Millisecond
	for {
		err := keys.Open(ctx)
		if err == nil && cfg.AdminEmail != "" {
			err = svc.EnsureAdmin(ctx, cfg.AdminEmail, cfg.AdminPassword)
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, auth.ErrSealed) {
			return err
		}
		log.WarnContext(ctx, "signing keys or first Admin not there yet, trying again",
			"error", postgres.Explain(err).Error(), "wait", wait.String())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(wait*2, 5*time.Second)
	}
}

// rotateKeys is the sub-command for operators: at a key's planned end nobody
// has to do anything.
func rotateKeys(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	flags := flag.NewFlagSet("rotate-keys", flag.ContinueOnError)
	revoke := flags.Bool("revoke", false, "a key leaked: the new one signs at once, tokens of all others end at the verifiers' next refresh of the keys")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	cfg, err := loadConfig(getenv)
	if err != nil {
		return err
	}
	pool, err := postgres.Open(ctx, cfg.Postgres)
	if err != nil {
		return err
	}
	defer pool.Close()
	keys := auth.NewKeys(outbox.NewDB(pool, nil), nil, cfg.Keys, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	kid, from, err := keys.Rotate(ctx, *revoke)
	if err != nil {
		return postgres.Explain(err)
	}
	fmt.Fprintf(stdout, "key %s signs from %s\n", kid, from.UTC().Format(time.RFC3339))
	return nil
}
