package main

import (
	"time"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/payment-service/internal/stripe"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	name      = payment.Source
	adminAddr = "127.0.0.1:5103"

	defaultDatabase = "postgres://tiffin:tiffin@localhost:5434/payment_db?sslmode=disable" //nolint:gosec // the development database's
)

// Config is everything that can be set; README.md explains each setting.
type Config struct {
	HTTPAddr string
	Obs      obs.Config
	Postgres postgres.Config
	Kafka    kafka.Config
	Consumer kafka.ConsumerConfig
	Auth     authn.Config
	Payment  payment.Config // its ProviderName is simulator or stripe

	SimulatorLatency time.Duration
	StripeKey        string
	StripeBase       string
}

// loadConfig reads the settings; its error lists every problem.
func loadConfig(getenv func(string) string) (Config, error) {
	r := env.New(getenv)
	cfg := Config{
		HTTPAddr: r.Addr("HTTP_ADDR", ":5003"),
		Obs:      obs.ConfigFrom(r, name, adminAddr),
		Postgres: postgres.ConfigFrom(r, defaultDatabase),
		Kafka:    kafka.ConfigFrom(r),
		Consumer: kafka.ConsumerConfigFrom(r, name, "payment.failed.dlq"),
		Auth:     authn.ConfigFrom(r),
		Payment: payment.Config{
			ProviderName: r.OneOf("PAYMENT_PROVIDER", simulator.Name, simulator.Name, stripe.Name),
			// Below half of what the consumer gives to both calls of a charge.
			ProviderTimeout: r.Duration("PAYMENT_TIMEOUT", 10*time.Second, 100*time.Millisecond, 14*time.Second),
			RefundRetry:     r.Duration("PAYMENT_REFUND_RETRY", 5*time.Minute, time.Second, 24*time.Hour),
		},
	}
	switch cfg.Payment.ProviderName {
	case stripe.Name:
		cfg.StripeKey = r.Secret("STRIPE_API_KEY")
		cfg.StripeBase = r.URL("STRIPE_API_BASE", stripe.DefaultBase).String()
		if cfg.StripeKey == "" {
			r.Fail("STRIPE_API_KEY", "PAYMENT_PROVIDER=stripe needs a secret or restricted key, here or as STRIPE_API_KEY_FILE")
		}
	default:
		cfg.SimulatorLatency = r.Duration("SIMULATOR_LATENCY", 0, 0, 10*time.Second)
	}
	return cfg, r.Err()
}
