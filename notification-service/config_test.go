package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
)

func TestSettingsHaveDefaultsThatWork(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(settings(nil))
	require.NoError(t, err)
	require.Equal(t, ":5004", c.HTTPAddr)
	require.Equal(t, "127.0.0.1:5104", c.Obs.AdminAddr)
	require.Equal(t, "postgres://tiffin:tiffin@localhost:5435/notification_db?sslmode=disable", c.Postgres.URL)
	require.Equal(t, "log", c.Channel)
	require.Equal(t, "notification-service", c.Consumer.Group)
	require.Equal(t, "notification.failed.dlq", c.Consumer.DLQ)
}

func TestSMTPSettings(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("s3cret\n"), 0o600))
	c, err := loadConfig(settings(map[string]string{
		"NOTIFICATION_CHANNEL": "smtp", "SMTP_ADDR": "smtp.example.com:465", "SMTP_TLS": "tls",
		"SMTP_USERNAME": "tiffin", "SMTP_PASSWORD_FILE": secret, "SMTP_FROM": "Tiffin <no-reply@example.com>",
	}))
	require.NoError(t, err)
	require.Equal(t, notification.SMTPConfig{
		Addr: "smtp.example.com:465", Username: "tiffin", Password: "s3cret",
		From: "Tiffin <no-reply@example.com>", TLS: notification.TLSImplicit, Timeout: 15 * time.Second,
	}, c.SMTP)
	_, err = newChannel(c, nil)
	require.NoError(t, err)
}

func TestEveryWrongSettingIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := loadConfig(settings(map[string]string{
		"HTTP_ADDR": "nowhere", "NOTIFICATION_CHANNEL": "smtp", "SMTP_ADDR": "smtp.example.com",
		"SMTP_USERNAME": "tiffin", "SMTP_PASSWORD": "x", "SMTP_FROM": "nobody", "SMTP_TLS": "none", "SMTP_TIMEOUT": "1h",
	}))
	require.Error(t, err)
	for _, name := range []string{"HTTP_ADDR", "SMTP_ADDR", "SMTP_FROM", "SMTP_TLS", "SMTP_TIMEOUT"} {
		require.Contains(t, err.Error(), name)
	}
	require.Len(t, strings.Split(err.Error(), "\n"), 5)

	_, err = loadConfig(settings(map[string]string{"NOTIFICATION_CHANNEL": "pigeon"}))
	require.ErrorContains(t, err, "NOTIFICATION_CHANNEL")
	_, err = loadConfig(settings(map[string]string{
		"NOTIFICATION_CHANNEL": "smtp", "SMTP_ADDR": "localhost:25", "SMTP_FROM": "a@b.c", "SMTP_USERNAME": "tiffin",
	}))
	require.ErrorContains(t, err, "SMTP_PASSWORD")
	for _, c := range []struct{ addr, from, named string }{
		{"mail:smtp", "a@b.c", "SMTP_ADDR"}, {"mail:0", "a@b.c", "SMTP_ADDR"}, {"mail:65536", "a@b.c", "SMTP_ADDR"},
		{"mail:25", `"a b"@c.d`, "SMTP_FROM"}, {"mail:25", "a@b.c, d@e.f", "SMTP_FROM"},
	} {
		_, err := loadConfig(settings(map[string]string{"NOTIFICATION_CHANNEL": "smtp", "SMTP_ADDR": c.addr, "SMTP_FROM": c.from}))
		require.ErrorContains(t, err, c.named, "%s %s", c.addr, c.from)
	}
}

func settings(m map[string]string) func(string) string {
	return func(name string) string { return m[name] }
}
