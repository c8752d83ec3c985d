package main

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheServiceStartsServesAndStops(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	r := servicetest.Boot(t, run, map[string]string{
		"DATABASE_URL":  pgtest.Empty(t), // it migrates by itself
		"KAFKA_BROKERS": kafkatest.New(t).Brokers[0],
		"JWKS_URL":      issuer.Server(),
		"JWT_ISSUER":    authntest.TestIssuer,
		"JWT_AUDIENCE":  authntest.TestAudience,
	})
	token := issuer.Token(uuid.Must(uuid.NewV7()), authn.Customer)
	var status int
	var body []byte
	require.Eventually(t, func() bool { // the keys come in the background
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.HTTP+"/notifications", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		status = resp.StatusCode
		body, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		return status == http.StatusOK
	}, 10*time.Second, 20*time.Millisecond)
	require.JSONEq(t, `{"items": []}`, string(body))
	r.Stop()
}

func TestTheServiceWaitsForItsDatabaseAndBroker(t *testing.T) {
	t.Parallel()
	r := servicetest.Launch(t, run, map[string]string{
		"DATABASE_URL":  "postgres://tiffin:tiffin@127.0.0.1:1/notification_db?sslmode=disable",
		"KAFKA_BROKERS": "127.0.0.1:1",
	})
	require.Equal(t, http.StatusOK, get(t, r.Admin+"/livez"))
	require.Equal(t, http.StatusServiceUnavailable, get(t, r.Admin+"/readyz"))
	r.Stop() // and stops cleanly while it waits
}

func TestAWrongSettingEndsTheStart(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), settings(map[string]string{"NOTIFICATION_CHANNEL": "pigeon"}), io.Discard)
	require.ErrorContains(t, err, "NOTIFICATION_CHANNEL")
}

func get(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	return resp.StatusCode
}
