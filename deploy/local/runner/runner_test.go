//go:build unix

package runner

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(t *testing.T, settings map[string]string) Options {
	t.Helper()
	o, err := OptionsFrom(func(name string) string { return settings[name] })
	require.NoError(t, err)
	o, err = o.complete()
	require.NoError(t, err)
	return o
}

func names(o Options) []string {
	list, _ := parts(o, prepared{})
	var all []string
	for _, p := range list {
		all = append(all, p.Name)
	}
	return all
}

func TestPartsAreListedAfterWhatTheyNeed(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"REPLICAS": "2"})
	all := names(o)
	require.Len(t, all, 4+1+2*5)
	list, uses := parts(o, prepared{})
	require.Len(t, uses, 4+1+2*5*2)
	for _, p := range list {
		for _, dep := range p.After {
			require.Less(t, slices.Index(all, dep), slices.Index(all, p.Name), "%s after %s", p.Name, dep)
		}
	}
	require.Contains(t, uses, use{"order-service-2", 6002})
	require.Contains(t, uses, use{"gateway-2", 6100})
}

func TestSkippedPartsAreLeftOutEverywhere(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"SKIP": "order-service,kafka", "REPLICAS": "2"})
	list, _ := parts(o, prepared{})
	for _, p := range list {
		require.NotContains(t, []string{"order-service", "order-service-2", "kafka"}, p.Name)
		require.NotContains(t, p.After, "kafka")
	}
	env := environment(o, "gateway")
	require.Equal(t, "http://localhost:5002", env["ORDER_URL"], "where go run . will serve")
	require.Equal(t, "http://localhost:5003,http://localhost:6003", env["PAYMENT_URL"])
}

func environment(o Options, name string) map[string]string {
	set := map[string]string{}
	for _, s := range services {
		if s.name == name {
			for _, pair := range serviceEnv(o, s, 0) {
				key, value, _ := strings.Cut(pair, "=")
				set[key] = value
			}
		}
	}
	return set
}

// Here and in Compose alike; the auth service's hashing is garbage of many MiB.
func TestServicesCollectGarbageAsInCompose(t *testing.T) {
	t.Setenv("GOGC", "") // which has precedence
	t.Setenv("GOMEMLIMIT", "")
	require.NoError(t, os.Unsetenv("GOGC"))
	require.NoError(t, os.Unsetenv("GOMEMLIMIT"))
	compose, err := os.ReadFile("../../../docker-compose.yml")
	require.NoError(t, err)
	o := options(t, nil)
	for _, s := range services {
		env := environment(o, s.name)
		if s.name == "auth-service" {
			require.Empty(t, env["GOGC"]+env["GOMEMLIMIT"])
			continue
		}
		require.Contains(t, string(compose), "\n  GOGC: "+env["GOGC"]+" ", s.name)
		require.Contains(t, string(compose), "\n  GOMEMLIMIT: "+env["GOMEMLIMIT"]+" ", s.name)
	}
}

func TestOffsetMovesEveryAddress(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"TIFFIN_PORT_OFFSET": "10000"})
	o.Env = map[string]string{"RETRY_DELAYS": "1s,1s,1s"}
	o.ServiceEnv = map[string]map[string]string{"order-service": {"ORDER_PAYMENT_DEADLINE": "20s"}}
	require.Equal(t, filepath.Join(o.Root, ".tiffin", "offset-10000"), o.Dir)
	env := environment(o, "order-service")
	for name, want := range map[string]string{
		"HTTP_ADDR": "127.0.0.1:15002", "ADMIN_ADDR": "127.0.0.1:15102", "KAFKA_BROKERS": "localhost:19092",
		"DATABASE_URL": "postgres://tiffin:tiffin@localhost:15433/order_db?sslmode=disable",
		"JWKS_URL":     "http://localhost:15001/.well-known/jwks.json", "SEED_DEMO_DATA": "true",
		"RETRY_DELAYS": "1s,1s,1s", "ORDER_PAYMENT_DEADLINE": "20s",
	} {
		require.Equal(t, want, env[name], name)
	}
	require.Equal(t, AdminEmail, environment(o, "auth-service")["AUTH_ADMIN_EMAIL"])
	require.Empty(t, environment(o, "payment-service")["ORDER_PAYMENT_DEADLINE"])
}

func TestWrongSettingsAreListedTogether(t *testing.T) {
	t.Parallel()
	_, err := OptionsFrom(func(name string) string {
		return map[string]string{"REPLICAS": "3", "SKIP": "order", "KAFKA": "yes", "RESTART": "maybe"}[name]
	})
	for _, name := range []string{"REPLICAS: ", "SKIP: there is no part \"order\"", "KAFKA: ", "RESTART: "} {
		require.ErrorContains(t, err, name)
	}
}

func TestBusyPortNamesPartAndOwner(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
	err = checkPorts(t.Context(), []use{{"gateway", port}})
	require.ErrorContains(t, err, "port "+strconv.Itoa(port)+", which gateway needs, is taken by ")
	require.ErrorContains(t, err, "TIFFIN_PORT_OFFSET")
	if _, statErr := os.Stat("/proc/net/tcp"); statErr == nil {
		require.ErrorContains(t, err, "process "+strconv.Itoa(os.Getpid()))
	}
}

func TestConsoleShowsWhatMattersAndKeepsAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out bytes.Buffer
	c := newConsole(&out, false, dir, func(string) string { return "" })
	w := c.writer("order-service")
	_, _ = w.Write([]byte("level=INFO msg=request\nlevel=WA"))
	_, _ = w.Write([]byte("RN msg=slow\n"))
	c.setQuiet()
	_, _ = w.Write([]byte("level=ERROR msg=\"database went away\"\n"))
	c.close()
	require.Equal(t, "order-service          │ level=WARN msg=slow\n", out.String())
	all, err := os.ReadFile(filepath.Join(dir, "order-service.log"))
	require.NoError(t, err)
	require.Equal(t, 3, bytes.Count(all, []byte("\n")))
}

func TestOneRunnerPerDirectory(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	unlock, err := lockDir(t.Context(), o)
	require.NoError(t, err)
	_, err = lockDir(t.Context(), o)
	require.ErrorContains(t, err, "another runner uses "+o.Dir)
	unlock()
}

func TestCleanDataRemovesAll(t *testing.T) {
	t.Parallel()
	o := Options{Dir: filepath.Join(t.TempDir(), "data")}
	require.NoError(t, CleanData(t.Context(), o), "nothing there")
	require.NoError(t, os.MkdirAll(filepath.Join(o.Dir, "broker"), 0o700))
	require.NoError(t, CleanData(t.Context(), o))
	require.NoDirExists(t, o.Dir)
}

func TestStrayOfAnEarlierRunIsStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "run"), 0o700))
	stray, err := startSleeper()
	require.NoError(t, err)
	// The kernel wakes the parent of a vfork before it has set the child's arguments.
	require.Eventually(t, func() bool { return proc.CommandLine(stray.Pid()) == "sleep 602" }, time.Minute, time.Millisecond)
	o := Options{Dir: dir}
	writePid(o, "order-service", stray.Pid(), "sleep 602")
	writePid(o, "gateway", os.Getpid(), "sleep 602") // used again by another program
	var out bytes.Buffer
	stopStrays(o, prepared{}, newConsole(&out, false, dir, func(string) string { return "" }))
	select {
	case <-stray.Done():
	case <-time.After(5 * time.Second):
		require.FailNow(t, "it still runs")
	}
	require.Contains(t, out.String(), "order-service.pid")
	require.NotContains(t, out.String(), "gateway.pid")
}

func startSleeper() (*proc.Process, error) {
	return proc.Start(exec.Command("sleep", "602"), syscall.SIGKILL)
}

func TestOneReplicaCanBeToldApart(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]string{"REPLICAS": "2"})
	o.ServiceEnv = map[string]map[string]string{"order-service": {"LOG_LEVEL": "warn"}, "order-service-2": {"LOG_LEVEL": "debug"}}
	require.Equal(t, "warn", environment(o, "order-service")["LOG_LEVEL"])
	for _, s := range services {
		if s.name == "order-service" {
			require.Contains(t, serviceEnv(o, s, 1), "LOG_LEVEL=debug")
		}
	}
	require.Equal(t, []string{"http://localhost:5000", "http://localhost:6000"}, o.GatewayURLs())
}

func TestClientsCanBeSentToTheBrokerThroughAnotherPort(t *testing.T) {
	t.Parallel()
	o := options(t, nil)
	require.Equal(t, []string{"localhost:9092"}, o.Brokers())
	o.BrokerAt = 19092
	require.Equal(t, []string{"localhost:19092"}, o.Brokers())
	require.Equal(t, 9092, o.BrokerPort())
	require.Equal(t, "localhost:19092", environment(o, "gateway")["KAFKA_BROKERS"])
}
