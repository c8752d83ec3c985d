package main

import (
	"net"
	"strconv"
	"time"

	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	name      = notification.Source
	adminAddr = "127.0.0.1:5104"
	// The local development database.
	defaultDatabase = "postgres://tiffin:tiffin@localhost:5435/notification_db?sslmode=disable" //nolint:gosec // the development password
)

// Config is everything that can be set; README.md explains each setting.
type Config struct {
	HTTPAddr string
	Obs      obs.Config
	Postgres postgres.Config
	Kafka    kafka.Config
	Consumer kafka.ConsumerConfig
	Authn    authn.Config
	Channel  string // log or smtp
	SMTP     notification.SMTPConfig
}

func loadConfig(getenv func(string) string) (Config, error) {
	r := env.New(getenv)
	c := Config{
		HTTPAddr: r.Addr("HTTP_ADDR", ":5004"),
		Obs:      obs.ConfigFrom(r, name, adminAddr),
		Postgres: postgres.ConfigFrom(r, defaultDatabase),
		Kafka:    kafka.ConfigFrom(r),
		Consumer: kafka.ConsumerConfigFrom(r, name, "notification.failed.dlq"),
		Authn:    authn.ConfigFrom(r),
		Channel:  r.OneOf("NOTIFICATION_CHANNEL", "log", "log", "smtp"),
	}
	if c.Channel == "smtp" {
		c.SMTP = loadSMTP(r)
	}
	return c, r.Err()
}

func loadSMTP(r *env.Reader) notification.SMTPConfig {
	c := notification.SMTPConfig{
		Addr:     r.String("SMTP_ADDR", ""),
		Username: r.String("SMTP_USERNAME", ""),
		Password: r.Secret("SMTP_PASSWORD"),
		From:     r.String("SMTP_FROM", ""),
		TLS:      r.OneOf("SMTP_TLS", notification.TLSStart, notification.TLSStart, notification.TLSImplicit, notification.TLSNone),
		Timeout:  r.Duration("SMTP_TIMEOUT", 15*time.Second, time.Second, 25*time.Second),
	}
	host, port, err := net.SplitHostPort(c.Addr)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
		r.Fail("SMTP_ADDR", "%q must be the mail server's host:port, such as smtp.example.com:587", c.Addr)
	}
	if !notification.ValidSender(c.From) {
		r.Fail("SMTP_FROM", "%q must be a mail address, such as Tiffin <no-reply@example.com>", c.From)
	}
	if (c.Username == "") != (c.Password == "") {
		r.Fail("SMTP_USERNAME", "set it together with SMTP_PASSWORD, or neither")
	}
	if c.Username != "" && c.TLS == notification.TLSNone {
		r.Fail("SMTP_TLS", "must be starttls or tls when SMTP_USERNAME is set: a password must not travel in clear")
	}
	return c
}
