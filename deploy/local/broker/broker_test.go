package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs the broker until the returned function is called.
func serve(t *testing.T, dir string, port int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, dir, port, port, io.Discard) }()
	return func() {
		cancel()
		// It may be told while it still makes sure of its last topic.
		if err := <-done; !errors.Is(err, context.Canceled) {
			require.NoError(t, err)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
}

func TestTopicsExistAndRecordsSurviveARestart(t *testing.T) {
	t.Parallel()
	dir, port := t.TempDir(), freePort(t)
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:"+strconv.Itoa(port)), kgo.DefaultProduceTopic("order.created"), kgo.RetryTimeout(time.Minute))
	require.NoError(t, err)
	defer client.Close()
	stop := serve(t, dir, port)
	var topics kadm.TopicDetails
	require.Eventually(t, func() bool {
		topics, err = kadm.NewClient(client).ListTopics(t.Context())
		return err == nil && len(topics) == len(Topics())
	}, time.Minute, 10*time.Millisecond)
	for _, name := range Topics() {
		require.Len(t, topics[name].Partitions, Partitions, name)
	}
	require.Contains(t, Topics(), "payment-service.retry.3")
	require.Contains(t, Topics(), "notification.failed.dlq")
	require.NoError(t, client.ProduceSync(t.Context(), kgo.StringRecord("kept")).FirstErr())
	stop()

	stop = serve(t, dir, port)
	defer stop()
	require.Eventually(t, func() bool {
		ends, err := kadm.NewClient(client).ListEndOffsets(t.Context(), "order.created")
		total := int64(0)
		ends.Each(func(o kadm.ListedOffset) { total += max(0, o.Offset) })
		return err == nil && total == 1
	}, time.Minute, 10*time.Millisecond)
}

func TestBusyPortIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
	err = Run(t.Context(), t.TempDir(), port, port, io.Discard)
	require.ErrorContains(t, err, "port "+strconv.Itoa(port)+" is taken by another program")
}

func TestClientsAreToldAnotherPort(t *testing.T) {
	t.Parallel()
	port, between := freePort(t), freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	// Nothing listens between: the topics cannot be made, and clients that ask
	// are sent there.
	go func() { done <- Run(ctx, t.TempDir(), port, between, io.Discard) }()
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:" + strconv.Itoa(port)))
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool {
		brokers, err := kadm.NewClient(client).ListBrokers(t.Context())
		return err == nil && len(brokers) == 1 && int(brokers[0].Port) == between
	}, time.Minute, 10*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}
