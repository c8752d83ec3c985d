package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
)

func from(settings map[string]string) func(string) string {
	return func(name string) string { return settings[name] }
}

func TestDefaultsNeedNoSettings(t *testing.T) {
	t.Parallel()
	cfg, err := loadConfig(from(nil))
	require.NoError(t, err)
	require.Equal(t, ":5003", cfg.HTTPAddr)
	require.Equal(t, defaultDatabase, cfg.Postgres.URL)
	require.Equal(t, payment.Config{ProviderName: "simulator", ProviderTimeout: 10 * time.Second, RefundRetry: 5 * time.Minute}, cfg.Payment)
}

func TestEveryProblemIsToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := loadConfig(from(map[string]string{
		"HTTP_ADDR": "x", "PAYMENT_PROVIDER": "cash", "PAYMENT_TIMEOUT": "1h", "PAYMENT_REFUND_RETRY": "never", "SIMULATOR_LATENCY": "-1s",
	}))
	for _, name := range []string{"HTTP_ADDR", "PAYMENT_PROVIDER", "PAYMENT_TIMEOUT", "PAYMENT_REFUND_RETRY", "SIMULATOR_LATENCY"} {
		require.ErrorContains(t, err, name)
	}
	_, err = loadConfig(from(map[string]string{"PAYMENT_PROVIDER": "stripe", "STRIPE_API_BASE": "ftp://x"}))
	require.ErrorContains(t, err, "STRIPE_API_KEY")
	require.ErrorContains(t, err, "STRIPE_API_BASE")
}

func TestTheStripeKeyMayBeAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, []byte("sk_test_file\n"), 0o600))
	cfg, err := loadConfig(from(map[string]string{"PAYMENT_PROVIDER": "stripe", "STRIPE_API_KEY_FILE": path}))
	require.NoError(t, err)
	require.Equal(t, "sk_test_file", cfg.StripeKey)
	require.Equal(t, "https://api.stripe.com", cfg.StripeBase)
}
