// Package kafkatest gives tests a Kafka broker, and a way to hand an event to a
// subscription without one.
package kafkatest

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/tiffin-platform/tiffin/pkg/kafka"
)

// New starts a broker that speaks Kafka's protocol, in memory, and closes it at
// the end of the test. Topics are made explicitly, as in production.
func New(t testing.TB, opts ...kfake.Opt) kafka.Config {
	t.Helper()
	cfg, _ := NewCluster(t, opts...)
	return cfg
}

// NewCluster is New for tests that also make the broker fail.
func NewCluster(t testing.TB, opts ...kfake.Opt) (kafka.Config, *kfake.Cluster) {
	t.Helper()
	opts = append([]kfake.Opt{
		kfake.NumBrokers(1),
		kfake.BrokerConfigs(map[string]string{"group.initial.rebalance.delay.ms": "0"}),
	}, opts...)
	c, err := kfake.NewCluster(opts...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return kafka.Config{Brokers: c.ListenAddrs(), Partitions: 3, Replication: 1}, c
}
