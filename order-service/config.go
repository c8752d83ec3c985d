package main

import (
	"time"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	name      = "order-service"
	adminAddr = "127.0.0.1:5102"
	// The local development database.
	defaultDatabase = "postgres://tiffin:tiffin@localhost:5433/order_db?sslmode=disable" //nolint:gosec // the development password
)

// Config is everything that can be set from outside.
type Config struct {
	HTTPAddr string
	Obs      obs.Config
	Postgres postgres.Config
	Kafka    kafka.Config
	Consumer kafka.ConsumerConfig
	Auth     authn.Config

	PaymentDeadline time.Duration // a pending order is cancelled after it
	SeedDemoData    bool
}

// loadConfig reads the settings; its error lists every problem.
func loadConfig(getenv func(string) string) (Config, error) {
	r := env.New(getenv)
	cfg := Config{
		HTTPAddr: r.Addr("HTTP_ADDR", ":5002"),
		Obs:      obs.ConfigFrom(r, name, adminAddr),
		Postgres: postgres.ConfigFrom(r, defaultDatabase),
		Kafka:    kafka.ConfigFrom(r),
		Consumer: kafka.ConsumerConfigFrom(r, name, "order.failed.dlq"),
		Auth:     authn.ConfigFrom(r),

		PaymentDeadline: r.Duration("ORDER_PAYMENT_DEADLINE", 10*time.Minute, time.Second, 30*24*time.Hour),
	}
	// Who runs the service by hand, with no settings, finds something to order.
	cfg.SeedDemoData = r.Bool("SEED_DEMO_DATA", cfg.Postgres.URL == defaultDatabase)
	return cfg, r.Err()
}

// retryTime is how long an event may be on its way through all retries.
func (c Config) retryTime() time.Duration {
	var sum time.Duration
	for _, d := range c.Consumer.RetryDelays {
		sum += d
	}
	return sum
}
