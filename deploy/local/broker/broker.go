// Package broker is the embedded development broker: franz-go's kfake on disk.
// It speaks Kafka's protocol and keeps what it acknowledged, also after kill -9.
// It is one node without replication and checks less than Apache Kafka does;
// it is not for production.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
)

// Partitions of every topic, as the services create them by default.
const Partitions = 12

// Topics lists every topic of the platform: one per event type, and the retry
// and dead-letter topics of the groups.
func Topics() []string {
	topics := event.Types()
	for group, dlq := range map[string]string{
		"order-service":        "order.failed.dlq",
		"payment-service":      "payment.failed.dlq",
		"notification-service": "notification.failed.dlq",
	} {
		topics = append(topics, dlq)
		for n := range kafka.Retries {
			topics = append(topics, kafka.RetryTopic(group, n+1))
		}
	}
	return topics
}

// Run serves on 127.0.0.1:port with its data in dir until ctx ends. Clients are
// told to connect to the port named clients, where something may stand between.
func Run(ctx context.Context, dir string, port, clients int, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(out, nil))
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir), kfake.ClusterID("tiffin-local"),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			var lc net.ListenConfig
			l, err := lc.Listen(ctx, network, address)
			return advertised{l, clients}, err
		}),
		kfake.DefaultNumPartitions(Partitions),
		kfake.GroupMinSessionTimeout(time.Second), kfake.GroupMaxSessionTimeout(never),
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": fmt.Sprint((7 * 24 * time.Hour).Milliseconds())}),
	)
	if err != nil {
		return explain(err, dir, port)
	}
	defer cluster.Close()
	// Topics that a client's request created are lost with kill -9; those that
	// were created explicitly are not.
	cfg := kafka.Config{Brokers: []string{fmt.Sprintf("127.0.0.1:%d", clients)}, Partitions: Partitions, Replication: 1}
	client, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	members := newSessions(cluster, client)
	if err := kafka.EnsureTopics(ctx, client, cfg, Topics()...); err != nil {
		return err
	}
	log.InfoContext(ctx, "broker listening", "addr", cfg.Brokers[0], "data", dir, "topics", len(Topics()))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		members.run(ctx, func(group, member string, err error) {
			log.WarnContext(ctx, "session of a silent member ended", "group", group, "member", member, "error", err)
		})
	})
	// kfake applies retention by itself only until its first restart.
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			cluster.ApplyRetention()
		}
	}
}

// advertised is a listener that claims another port: the broker names it to
// its clients.
type advertised struct {
	net.Listener
	port int
}

// Addr is where clients are to connect.
func (l advertised) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: l.port} }

func explain(err error, dir string, port int) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("port %d is taken by another program: %w", port, err)
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("the disk of %s is full: free space: %w", dir, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s is not writable: %w", dir, err)
	}
	return fmt.Errorf("start broker on %s: %w (make clean-data starts with an empty one)", dir, err)
}
