package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func settings(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"DATABASE_URL":           pgtest.Empty(t),
		"KAFKA_BROKERS":          strings.Join(kafkatest.New(t).Brokers, ","),
		"KAFKA_TOPIC_PARTITIONS": "3",
		"AUTH_ADMIN_EMAIL":       "admin@tiffin.local",
		"AUTH_ADMIN_PASSWORD":    "correct horse battery",
		"AUTH_KEYS_SECRET":       "0123456789abcdef0123456789abcdef",
	}
}

func post(t *testing.T, url, body string) (int, map[string]any) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var v map[string]any
	if len(b) > 0 {
		require.NoError(t, json.Unmarshal(b, &v), string(b))
	}
	return resp.StatusCode, v
}

func TestServiceBootsServesAndStops(t *testing.T) {
	t.Parallel()
	env := settings(t)
	s := servicetest.Boot(t, run, env)
	status, tokens := post(t, s.HTTP+"/auth/login", `{"email":"ADMIN@tiffin.local","password":"correct horse battery"}`)
	require.Equal(t, 200, status, tokens)
	status, _ = post(t, s.HTTP+"/auth/refresh", `{"refresh_token":"`+tokens["refresh_token"].(string)+`"}`)
	require.Equal(t, 200, status)
	kid := kids(t, s.HTTP)
	require.Len(t, kid, 1)
	s.Stop()

	// A restart finds the same key and the same, single Admin.
	s = servicetest.Boot(t, run, env)
	require.Equal(t, kid, kids(t, s.HTTP))
	status, _ = post(t, s.HTTP+"/auth/login", `{"email":"admin@tiffin.local","password":"correct horse battery"}`)
	require.Equal(t, 200, status)

	// A key rotated from the command line is published beside the old one.
	var out bytes.Buffer
	require.NoError(t, rotateKeys(t.Context(), nil, func(n string) string { return env[n] }, &out))
	require.Contains(t, out.String(), "signs from")
	s.Stop()
	s = servicetest.Boot(t, run, env)
	require.Len(t, kids(t, s.HTTP), 2)
	require.NoError(t, rotateKeys(t.Context(), []string{"-revoke"}, func(n string) string { return env[n] }, &out))
	require.Eventually(t, func() bool {
		now := kids(t, s.HTTP)
		return len(now) == 1 && now[0] != kid[0]
	}, 30*time.Second, 100*time.Millisecond)
	require.ErrorContains(t, rotateKeys(t.Context(), []string{"extra"}, func(n string) string { return env[n] }, &out), "unexpected")
	s.Stop()

	// Keys sealed with one secret are no use with another: the message says what to do.
	env["AUTH_KEYS_SECRET"] = "another secret of 32 bytes......"
	err := run(t.Context(), func(n string) string {
		if n == "HTTP_ADDR" || n == "ADMIN_ADDR" {
			return "127.0.0.1:0"
		}
		return env[n]
	}, io.Discard)
	require.ErrorContains(t, err, "sealed with another AUTH_KEYS_SECRET")
}

func kids(t *testing.T, base string) []string {
	t.Helper()
	resp, err := http.Get(base + "/.well-known/jwks.json")
	require.NoError(t, err)
	defer resp.Body.Close()
	var set struct{ Keys []struct{ Kid string } }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&set))
	var out []string
	for _, k := range set.Keys {
		out = append(out, k.Kid)
	}
	return out
}

func TestSeveralReplicasStartAtOnce(t *testing.T) {
	t.Parallel()
	env := settings(t)
	replicas := make([]*servicetest.Running, 3)
	for i := range replicas {
		replicas[i] = servicetest.Launch(t, run, env)
	}
	var all [][]string
	for _, r := range replicas {
		r.WaitReady()
		all = append(all, kids(t, r.HTTP))
		status, body := post(t, r.HTTP+"/auth/login", `{"email":"admin@tiffin.local","password":"correct horse battery"}`)
		require.Equal(t, 200, status, body)
	}
	require.Len(t, all[0], 1, "one first key, whoever made it")
	require.Equal(t, all[0], all[1])
	require.Equal(t, all[0], all[2])
}

func TestDatabaseDownAtStartIsWaitedFor(t *testing.T) {
	t.Parallel()
	env := settings(t)
	env["DATABASE_URL"] = "postgres://tiffin:tiffin@127.0.0.1:1/auth_db?sslmode=disable"
	s := servicetest.Launch(t, run, env)
	resp, err := http.Get(s.Admin + "/readyz")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 503, resp.StatusCode)
	resp, err = http.Get(s.Admin + "/livez")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
	require.Eventually(t, func() bool { return strings.Contains(s.Logs(), "nothing listens there") }, time.Minute, 20*time.Millisecond)
}

func TestWrongSettingsAreAllNamed(t *testing.T) {
	t.Parallel()
	bad := map[string]string{
		"HTTP_ADDR": "nowhere", "AUTH_ACCESS_TTL": "forever", "AUTH_KEYS_SECRET": "short", "AUTH_ADMIN_EMAIL": "nobody",
		"AUTH_ADMIN_PASSWORD": "x", "AUTH_TRUSTED_PROXIES": "loopback,somewhere", "AUTH_HASH_CONCURRENCY": "-1",
	}
	_, err := loadConfig(func(n string) string { return bad[n] })
	for name := range bad {
		if name != "AUTH_ADMIN_PASSWORD" {
			require.ErrorContains(t, err, name)
		}
	}
	_, err = loadConfig(func(n string) string { return map[string]string{"AUTH_ADMIN_EMAIL": "a@b.c"}[n] })
	require.ErrorContains(t, err, "or neither")

	cfg, err := loadConfig(func(string) string { return "" })
	require.NoError(t, err)
	require.Equal(t, 15*time.Minute, cfg.Auth.AccessTTL)
	require.Len(t, cfg.TrustedProxies, 6)
	cfg, err = loadConfig(func(n string) string { return map[string]string{"AUTH_TRUSTED_PROXIES": "none"}[n] })
	require.NoError(t, err)
	require.Empty(t, cfg.TrustedProxies)
	cfg, err = loadConfig(func(n string) string { return map[string]string{"AUTH_TRUSTED_PROXIES": "10.1.2.3,fd00::/8"}[n] })
	require.NoError(t, err)
	require.Equal(t, "10.1.2.3/32", cfg.TrustedProxies[0].String())
}
