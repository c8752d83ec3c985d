package obs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/obs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(t *testing.T, vars map[string]string) (obs.Config, error) {
	t.Helper()
	r := env.New(func(name string) string { return vars[name] })
	c := obs.ConfigFrom(r, "demo", "127.0.0.1:0")
	return c, r.Err()
}

func ready(o *obs.Obs) (int, string) {
	w := httptest.NewRecorder()
	o.Health.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return w.Code, w.Body.String()
}

func TestReadyFromTheLastGateUntilTheStop(t *testing.T) {
	t.Parallel()
	c, err := config(t, nil)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	o, err := obs.Start(ctx, c, io.Discard)
	require.NoError(t, err)
	defer o.Close()

	status, body := ready(o)
	require.Equal(t, 503, status, "nothing says yet what it takes")
	require.JSONEq(t, `{"ready":false,"checks":{}}`, body)
	openFirst, openSecond := o.Health.Gate("migrations"), o.Health.Gate("keys")
	o.Health.Reported("broker", func(context.Context) error { return errors.New("away") })
	openFirst()
	status, body = ready(o)
	require.Equal(t, 503, status)
	require.JSONEq(t, `{"ready":false,"checks":{"migrations":"ok","keys":"not done yet","broker":"away"}}`, body)
	openSecond()
	status, _ = ready(o)
	require.Equal(t, 200, status)
	stop()
	status, body = ready(o)
	require.Equal(t, 503, status)
	require.JSONEq(t, `{"ready":false,"checks":{"migrations":"ok","keys":"ok","broker":"away","service":"stopping"}}`, body)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	c, err := config(t, map[string]string{
		"ADMIN_ADDR": ":5102", "LOG_LEVEL": "warn", "LOG_FORMAT": "text",
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_SAMPLER_ARG": "0.25",
	})
	require.NoError(t, err)
	require.Equal(t, obs.Config{
		Service: "demo", AdminAddr: ":5102", LogLevel: slog.LevelWarn, LogFormat: "text",
		TraceEndpoint: "http://collector:4318", TraceRatio: 0.25,
	}, c)
	for _, ratio := range []string{"NaN", "0.5x", "-1", "1.1", "half"} {
		_, err = config(t, map[string]string{"OTEL_TRACES_SAMPLER_ARG": ratio})
		require.ErrorContains(t, err, "OTEL_TRACES_SAMPLER_ARG", ratio)
	}
	_, err = config(t, map[string]string{"ADMIN_ADDR": "x", "LOG_LEVEL": "loud", "LOG_FORMAT": "xml", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector"})
	for _, name := range []string{"ADMIN_ADDR", "LOG_LEVEL", "LOG_FORMAT", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		require.ErrorContains(t, err, name)
	}
}

func TestTheAdminPortShowsMetricsAndSaysWhenItIsTaken(t *testing.T) {
	t.Parallel()
	c, err := config(t, nil)
	require.NoError(t, err)
	lines, out := io.Pipe()
	first := make(chan string, 1)
	go func() {
		var line struct{ Msg, Addr, Service string }
		s := bufio.NewScanner(lines)
		if s.Scan() && json.Unmarshal(s.Bytes(), &line) == nil && line.Msg == "admin listening" && line.Service == "demo" {
			first <- line.Addr
		}
		close(first)
		for s.Scan() { // so that nobody who logs waits
		}
	}()
	o, err := obs.Start(t.Context(), c, out)
	require.NoError(t, err)
	t.Cleanup(func() {
		o.Close()
		_ = out.Close()
	})
	addr := <-first
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/metrics": `tiffin_build_info{`, "/livez": "alive", "/debug/pprof/cmdline": "obs",
	} {
		resp, err := client.Get("http://" + addr + path)
		require.NoError(t, err)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 200, resp.StatusCode, path)
		require.Contains(t, string(b), want, path)
	}
	c.AdminAddr = addr
	_, err = obs.Start(t.Context(), c, io.Discard)
	require.ErrorContains(t, err, "set ADMIN_ADDR to move")
}
