package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings are those of a gateway before a service at addr.
func settings(issuer *authntest.Issuer, addr string) map[string]string {
	return map[string]string{
		"JWKS_URL": issuer.Server(), "JWT_ISSUER": authntest.TestIssuer, "JWT_AUDIENCE": authntest.TestAudience,
		"AUTH_URL": addr, "ORDER_URL": addr, "PAYMENT_URL": addr, "NOTIFICATION_URL": addr,
	}
}

func TestTheGatewayBootsServesAndStops(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	service := listen(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
	g := servicetest.Boot(t, run, settings(issuer, service))
	token := issuer.Token(uuid.Must(uuid.NewV7()), authn.Customer)

	status, body := get(t, g.HTTP+"/orders", token)
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, "/orders", body)
	status, _ = get(t, g.HTTP+"/orders", "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = get(t, g.HTTP+"/admin/orders", token)
	require.Equal(t, http.StatusForbidden, status)

	status, body = get(t, g.HTTP+"/openapi.json", "")
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, string(openAPI), body)

	status, body = get(t, g.Admin+"/metrics", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `tiffin_http_request_seconds_count{method="GET",route="/orders",status="200"} 1`)
	for _, name := range []string{"tiffin_gateway_limited_total", "tiffin_gateway_limit_clients", "tiffin_gateway_upstream_resting"} {
		require.Contains(t, body, name)
	}
	g.Stop()
	require.Contains(t, g.Logs(), `"route":"/orders"`)
	require.NotContains(t, g.Logs(), token)
}

func TestTheGatewayIsAliveButNotReadyWithoutKeys(t *testing.T) {
	t.Parallel()
	s := settings(authntest.New(t), "http://127.0.0.1:1")
	s["JWKS_URL"] = "http://127.0.0.1:1/.well-known/jwks.json"
	g := servicetest.Launch(t, run, s)
	status, _ := get(t, g.Admin+"/livez", "")
	require.Equal(t, http.StatusOK, status)
	status, body := get(t, g.Admin+"/readyz", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, `"keys"`)
}

func TestABusyPortIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s := settings(authntest.New(t), "http://127.0.0.1:1")
	s["HTTP_ADDR"], s["ADMIN_ADDR"] = l.Addr().String(), "127.0.0.1:0"
	err = run(context.Background(), func(name string) string { return s[name] }, io.Discard)
	require.ErrorContains(t, err, l.Addr().String())
	require.ErrorContains(t, err, "HTTP_ADDR")
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(func(string) string { return "" })
	require.NoError(t, err)
	require.Equal(t, ":5000", c.HTTPAddr)
	require.Equal(t, "127.0.0.1:5100", c.Obs.AdminAddr)
	require.Equal(t, 200, c.RateIP.Burst())
	require.Equal(t, 100, c.RateUser.Burst())
	require.Equal(t, 40, c.RateLogin.Burst())
	require.Empty(t, c.TrustedProxies, "not even loopback")
	require.Empty(t, c.CORSOrigins)
	for name, want := range map[string]string{"auth": "http://localhost:5001", "order": "http://localhost:5002", "payment": "http://localhost:5003", "notification": "http://localhost:5004"} {
		for service, list := range c.Upstreams {
			if string(service) == name {
				require.Equal(t, want, list[0].String())
			}
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"ORDER_URL": "http://a:1, http://b:2", "RATE_LIMIT_IP": "off", "RATE_LIMIT_USER": "60/m", "GATEWAY_REPLICAS": "2",
		"TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1,2001:db8::/32", "CORS_ALLOWED_ORIGINS": "https://app.example,http://localhost:3000",
	}
	c, err := loadConfig(func(name string) string { return values[name] })
	require.NoError(t, err)
	require.Len(t, c.Upstreams["order"], 2)
	require.True(t, c.RateIP.Off())
	require.Equal(t, 60, c.RateUser.Burst(), "half of 120")
	require.Equal(t, 20, c.RateLogin.Burst(), "of the default too")
	require.Equal(t, "[10.0.0.0/8 192.0.2.1/32 2001:db8::/32]", fmt.Sprint(c.TrustedProxies))
	require.Equal(t, []string{"https://app.example", "http://localhost:3000"}, c.CORSOrigins)
	values["RATE_LIMIT_IP"] = "10/s"
	c, err = loadConfig(func(name string) string { return values[name] })
	require.NoError(t, err)
	require.Equal(t, 10, c.RateIP.Burst())
}

func TestEveryWrongSettingIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"HTTP_ADDR": "5000", "AUTH_URL": "localhost:5001", "ORDER_URL": "ftp://x", "RATE_LIMIT_IP": "many", "RATE_LIMIT_LOGIN": "1/d",
		"TRUSTED_PROXIES": "loopback", "CORS_ALLOWED_ORIGINS": "https://app.example/path", "GATEWAY_REPLICAS": "0", "UPSTREAM_TIMEOUT": "1h", "LOG_LEVEL": "loud",
	}
	_, err := loadConfig(func(name string) string { return values[name] })
	for name := range values {
		require.ErrorContains(t, err, name+": ")
	}
}

func listen(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return "http://" + l.Addr().String()
}

func get(t *testing.T, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}
