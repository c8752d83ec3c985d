package service_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/service"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

const asProcess = "SERVICE_TEST_PROCESS"

// The test binary stands in for a service when it is started again as a child.
func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		service.Main("demo", "127.0.0.1:1", run, service.Command{Name: "hello", Usage: "greet", Run: hello})
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func hello(_ context.Context, args []string, _ func(string) string, stdout io.Writer) error {
	_, err := io.WriteString(stdout, "hello "+args[0])
	return err
}

func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	r := env.New(getenv)
	cfg := obs.ConfigFrom(r, "demo", "127.0.0.1:0")
	addr := r.Addr("HTTP_ADDR", "127.0.0.1:0")
	down := r.Bool("DOWN", false)
	if err := r.Err(); err != nil {
		return err
	}
	o, err := obs.Start(ctx, cfg, stdout)
	if err != nil {
		return err
	}
	defer o.Close()
	o.Health.Decisive("database", func(context.Context) error {
		if down {
			return errors.New("database refuses connections")
		}
		return nil
	})
	o.Health.Reported("broker", func(context.Context) error { return errors.New("broker is away") })
	return httpx.Serve(ctx, addr, http.NotFoundHandler(), o.Log)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestReadinessTellsTheTruthAndTheBrokerIsNotDecisive(t *testing.T) {
	t.Parallel()
	r := servicetest.Boot(t, run, nil)
	status, body := get(t, r.Admin+"/readyz")
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"ready":true,"checks":{"database":"ok","broker":"broker is away"}}`, body)

	r = servicetest.Launch(t, run, map[string]string{"DOWN": "true"})
	status, body = get(t, r.Admin+"/readyz")
	require.Equal(t, 503, status)
	require.Contains(t, body, "database refuses connections")
	status, _ = get(t, r.Admin+"/livez")
	require.Equal(t, 200, status, "alive though not ready")
	_, body = get(t, r.Admin+"/metrics")
	require.Contains(t, body, `tiffin_dependency_up{dependency="database"} 0`)
}

func process(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append([]string{asProcess + "=1"}, env...)
	return cmd
}

func TestProcessStopsCleanlyOnSIGTERMAndAnswersItsHealthProbe(t *testing.T) {
	t.Parallel()
	l, err := httpx.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())

	require.Error(t, process(t, []string{"ADMIN_ADDR=" + addr}, "-healthcheck").Run(), "nothing runs yet")
	cmd := process(t, []string{"ADMIN_ADDR=" + addr})
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		return process(t, []string{"ADMIN_ADDR=" + addr}, "-healthcheck").Run() == nil
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}

func TestArguments(t *testing.T) {
	t.Parallel()
	out, err := process(t, nil, "hello", "Asha").Output()
	require.NoError(t, err)
	require.Equal(t, "hello Asha", string(out))

	b, err := process(t, nil, "frobnicate").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(b), `unknown argument "frobnicate"`)
	require.Contains(t, string(b), "greet", "usage lists the commands")

	b, err = process(t, []string{"LOG_LEVEL=loud", "HTTP_ADDR=x"}).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(b), "LOG_LEVEL")
	require.Contains(t, string(b), "HTTP_ADDR", "every problem is told at once")
}
