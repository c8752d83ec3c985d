// Package containers runs the messaging core against PostgreSQL and Apache
// Kafka in containers, where a Docker engine answers; elsewhere against the
// servers that all other tests use, so that the test never passes by skipping.
package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	postgresImage = "postgres:18-alpine"
	kafkaImage    = "apache/kafka:4.1.1"
)

// engine asks the Docker engine whether it is there. testcontainers itself hangs
// on a socket that accepts and never answers.
func engine(ctx context.Context) error {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	protocol, addr, ok := strings.Cut(host, "://")
	if !ok || (protocol != "unix" && protocol != "tcp") {
		return fmt.Errorf("DOCKER_HOST %q is neither unix:// nor tcp://", host)
	}
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, protocol, addr)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}

// start runs both containers; an error means that they cannot be had here.
func start(t *testing.T) (databaseURL, broker string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := engine(ctx); err != nil {
		return "", "", fmt.Errorf("no Docker engine: %w", err)
	}
	pg, err := testcontainers.Run(ctx, postgresImage,
		testcontainers.WithEnv(map[string]string{"POSTGRES_USER": "tiffin", "POSTGRES_PASSWORD": "tiffin", "POSTGRES_DB": "tiffin"}),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithWaitStrategy(wait.ForExec([]string{"pg_isready", "-h", "127.0.0.1", "-U", "tiffin"})))
	testcontainers.CleanupContainer(t, pg)
	if err != nil {
		return "", "", err
	}
	address, err := pg.PortEndpoint(ctx, "5432/tcp", "")
	if err != nil {
		return "", "", err
	}
	// Clients are sent to the advertised listener, so its port is chosen first.
	port := freePort(t)
	k, err := testcontainers.Run(ctx, kafkaImage,
		testcontainers.WithEnv(map[string]string{
			"KAFKA_NODE_ID":                                  "1",
			"KAFKA_PROCESS_ROLES":                            "broker,controller",
			"KAFKA_LISTENERS":                                "PLAINTEXT://:9092,CONTROLLER://:9093",
			"KAFKA_ADVERTISED_LISTENERS":                     "PLAINTEXT://127.0.0.1:" + port,
			"KAFKA_CONTROLLER_LISTENER_NAMES":                "CONTROLLER",
			"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":           "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
			"KAFKA_CONTROLLER_QUORUM_VOTERS":                 "1@localhost:9093",
			"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
			"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
			"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
			"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
			"KAFKA_AUTO_CREATE_TOPICS_ENABLE":                "false",
		}),
		testcontainers.WithExposedPorts("9092/tcp"),
		testcontainers.WithHostConfigModifier(func(c *container.HostConfig) {
			c.PortBindings = network.PortMap{network.MustParsePort("9092/tcp"): {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: port}}}
		}),
		testcontainers.WithWaitStrategy(wait.ForLog("Kafka Server started")))
	testcontainers.CleanupContainer(t, k)
	if err != nil {
		return "", "", err
	}
	return "postgres://tiffin:tiffin@" + address + "/tiffin?sslmode=disable", "127.0.0.1:" + port, nil
}

func TestAnEventTravelsFromOneTransactionToAnother(t *testing.T) {
	// The test removes its containers itself, so the reaper's image is not needed.
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
	log := slog.New(slog.DiscardHandler)
	databaseURL, broker, err := start(t)
	cfg := kafka.Config{Brokers: []string{broker}, Partitions: 3, Replication: 1}
	if err != nil {
		t.Logf("without containers: %v", err)
		databaseURL = pgtest.URL(t, nil)
		cfg = kafkatest.New(t)
	}
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: databaseURL, MaxConns: 8})
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, postgres.MigrateWait(t.Context(), pool, nil, log))

	ctx, stop := context.WithCancel(t.Context())
	bell := postgres.NewDoorbell(pool, log)
	db := outbox.NewDB(pool, bell)
	client, err := kafka.NewClient(cfg, "test", log, prometheus.NewRegistry())
	require.NoError(t, err)
	defer client.Close()
	got := make(chan event.OrderCreated, 1)
	consumer, err := kafka.NewConsumer(cfg, kafka.ConsumerConfig{Group: "test", DLQ: "test.failed.dlq"}, db, log, prometheus.NewRegistry(),
		kafka.On(1, event.TypeOrderCreated, func(_ context.Context, _ *outbox.Tx, _ event.Event, p event.OrderCreated) error {
			got <- p
			return nil
		}))
	require.NoError(t, err)
	relay := outbox.NewRelay(db, client, outbox.RelayConfig{}, log, prometheus.NewRegistry())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bell.Run(ctx) })
	g.Go(func() error { return relay.Run(ctx) })
	g.Go(func() error { return consumer.Run(ctx) })

	sent := event.OrderCreated{OrderID: uuid.Must(uuid.NewV7()), Total: 1900, Currency: "EUR"}
	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
		tx.Emit(t.Context(), event.New("test", sent))
		return nil
	}))
	select {
	case p := <-got:
		require.Equal(t, sent.OrderID, p.OrderID)
	case <-time.After(time.Minute):
		require.Fail(t, "the event did not arrive")
	}
	stop()
	require.NoError(t, g.Wait())
}
