//go:build unix

package kafkatest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/kafka"
)

// Broker is what a suite runs against: a fake of its own in memory, or with
// KAFKA=real an Apache Kafka, which the tests of a process use one after the
// other and find empty. KAFKA_NODES=3 makes that a cluster of three nodes.
type Broker struct {
	kafka.Config
	Admin *kadm.Client

	t     testing.TB
	fake  *kfake.Cluster
	nodes *Nodes
}

// Start returns a broker for t. A test that has one must not ask for another.
func Start(t testing.TB) *Broker {
	t.Helper()
	b := &Broker{t: t}
	if Real() {
		b.nodes = shared.take(t)
		b.Config = b.nodes.config()
	} else {
		b.Config, b.fake = NewCluster(t)
	}
	b.connect()
	if b.nodes != nil {
		b.empty()
	}
	return b
}

// StartThree returns an Apache Kafka of three nodes for t alone. Without
// KAFKA=real the test is skipped.
func StartThree(t testing.TB) *Broker {
	t.Helper()
	if !Real() {
		t.Skip("needs KAFKA=real")
	}
	nodes, err := startNodes(3)
	require.NoError(t, err)
	t.Cleanup(nodes.Stop)
	b := &Broker{t: t, nodes: nodes, Config: nodes.config()}
	b.connect()
	return b
}

func (b *Broker) connect() {
	b.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Brokers...), kgo.MetadataMinAge(50*time.Millisecond))
	require.NoError(b.t, err)
	b.t.Cleanup(client.Close)
	b.Admin = kadm.NewClient(client)
}

// StartFake is Start for tests that are about anything but the broker.
func StartFake(t testing.TB) *Broker {
	t.Helper()
	b := &Broker{t: t}
	b.Config, b.fake = NewCluster(t)
	return b
}

// Real reports whether suites run against Apache Kafka.
func Real() bool { return os.Getenv("KAFKA") == "real" }

// Fake returns the fake, for tests in which the broker has to break a rule or to
// fail at one place. With a real one they are skipped.
func (b *Broker) Fake() *kfake.Cluster {
	b.t.Helper()
	if b.fake == nil {
		b.t.Skip("needs a broker that fails to order")
	}
	return b.fake
}

// Nodes returns the Apache Kafka, nil for the fake.
func (b *Broker) Nodes() *Nodes { return b.nodes }

// empty removes what the test before left behind.
func (b *Broker) empty() {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		topics, err := b.Admin.ListTopics(ctx)
		if err != nil {
			return false
		}
		if len(topics) > 0 {
			_, _ = b.Admin.DeleteTopics(ctx, topics.Names()...)
			return false
		}
		groups, err := b.Admin.ListGroups(ctx)
		if err != nil {
			return false
		}
		if len(groups) > 0 { // one of a killed member lasts until its session ends
			_, _ = b.Admin.DeleteGroups(ctx, groups.Groups()...)
			return false
		}
		return true
	}, time.Minute, 50*time.Millisecond, "topics and groups of the test before are gone")
}

// one is the process's Apache Kafka.
type one struct {
	mu    sync.Mutex // held by the test that uses it
	nodes *Nodes
}

var shared one

func (o *one) take(t testing.TB) *Nodes {
	t.Helper()
	o.mu.Lock()
	t.Cleanup(o.mu.Unlock) // after everything that the test starts from here on
	n := 1
	if s := os.Getenv("KAFKA_NODES"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err, "KAFKA_NODES")
	}
	if o.nodes == nil {
		var err error
		o.nodes, err = startNodes(n)
		require.NoError(t, err)
	}
	return o.nodes
}

// M runs a package's tests and stops the Apache Kafka that they used:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(kafkatest.M{M: m}) }
type M struct{ *testing.M }

// Run runs the tests.
func (m M) Run() int {
	code := m.M.Run()
	if shared.nodes != nil {
		shared.nodes.Stop()
		if code != 0 {
			fmt.Fprintf(os.Stderr, "kafka said: %s\n", shared.nodes.Said())
		}
	}
	return code
}
