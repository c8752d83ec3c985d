package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
)

func read(vars map[string]string) (kafka.Config, kafka.ConsumerConfig, error) {
	r := env.New(func(name string) string { return vars[name] })
	cfg, cc := kafka.ConfigFrom(r), kafka.ConsumerConfigFrom(r, group, dlq)
	return cfg, cc, r.Err()
}

func TestConfigFromEnvironment(t *testing.T) {
	t.Parallel()
	cfg, cc, err := read(nil)
	require.NoError(t, err)
	require.Equal(t, []string{"localhost:9092"}, cfg.Brokers)
	require.Equal(t, 12, cfg.Partitions)
	require.Nil(t, cfg.TLS)
	require.Equal(t, []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute}, cc.RetryDelays)
	require.Equal(t, 14*24*time.Hour, cc.Retention)

	cfg, cc, err = read(map[string]string{
		"KAFKA_BROKERS": "a:1, b:2", "KAFKA_TOPIC_PARTITIONS": "3", "KAFKA_TOPIC_REPLICATION": "3", "KAFKA_TLS": "true",
		"KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p",
		"RETRY_DELAYS": "1s,2s,3s", "PROCESSED_RETENTION": "48h",
	})
	require.NoError(t, err)
	require.Equal(t, []string{"a:1", "b:2"}, cfg.Brokers)
	require.NotNil(t, cfg.TLS)
	require.Equal(t, 48*time.Hour, cc.Retention)

	for name, vars := range map[string]map[string]string{
		"no port":            {"KAFKA_BROKERS": "localhost"},
		"port by name":       {"KAFKA_BROKERS": "kafka:broker"},
		"no partitions":      {"KAFKA_TOPIC_PARTITIONS": "0"},
		"replication":        {"KAFKA_TOPIC_REPLICATION": "0"},
		"mechanism":          {"KAFKA_SASL_MECHANISM": "GSSAPI"},
		"no password":        {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u"},
		"no mechanism":       {"KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"},
		"two delays":         {"RETRY_DELAYS": "1s,2s"},
		"short retention":    {"PROCESSED_RETENTION": "1s"},
		"certificate":        {"KAFKA_TLS": "true", "KAFKA_TLS_CA": "?"},
		"unused certificate": {"KAFKA_TLS_CA": "?"},
	} {
		_, _, err := read(vars)
		require.Error(t, err, name)
	}
}

func TestSASL(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{kafka.SASLPlain, kafka.SASLScramSHA256, kafka.SASLScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			cfg := kafkatest.New(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "ada", "right"))
			cfg.SASLMechanism, cfg.SASLUsername, cfg.SASLPassword = mechanism, "ada", "right"
			client, err := kafka.NewClient(cfg, "test", logger(), nil)
			require.NoError(t, err)
			defer client.Close()
			require.NoError(t, kafka.EnsureTopics(t.Context(), client, cfg, topic))

			cfg.SASLPassword = "wrong"
			client, err = kafka.NewClient(cfg, "test", logger(), nil)
			require.NoError(t, err)
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			err = client.Ping(ctx)
			require.ErrorContains(t, kafka.Explain(err), "KAFKA_SASL_PASSWORD")
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	served := kafkatest.New(t, kfake.TLS(&tls.Config{MinVersion: tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}))

	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	cfg, _, err := read(map[string]string{"KAFKA_BROKERS": served.Brokers[0], "KAFKA_TLS": "true", "KAFKA_TLS_CA": ca, "KAFKA_TOPIC_REPLICATION": "1"})
	require.NoError(t, err)
	client, err := kafka.NewClient(cfg, "test", logger(), nil)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, kafka.EnsureTopics(t.Context(), client, cfg, topic))

	// Without the authority the broker is not trusted.
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	client, err = kafka.NewClient(cfg, "test", logger(), nil)
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.Error(t, client.Ping(ctx))
}

func TestEnsureTopicsSaysWhatWaitingDoesNotCure(t *testing.T) {
	t.Parallel()
	cfg, cluster := kafkatest.NewCluster(t)
	client, err := kafka.NewClient(cfg, "test", logger(), nil)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, kafka.EnsureTopics(t.Context(), client, cfg, "a", "b.dlq"))
	require.NoError(t, kafka.EnsureTopics(t.Context(), client, cfg, "a", "b.dlq", "c.retry.1"), "again")
	require.Len(t, cluster.PartitionInfos("a"), 3)
	require.Equal(t, "1310720", *cluster.TopicInfo("c.retry.1").Configs["max.message.bytes"])

	refused := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.PolicyViolation, Count: -1})
	require.ErrorIs(t, kafka.EnsureTopics(t.Context(), client, cfg, "d"), kerr.PolicyViolation)
	refused.Remove()

	// Brokers of a starting cluster register one after another: that passes.
	starting := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.InvalidReplicationFactor, Count: 2})
	require.NoError(t, kafka.EnsureTopics(t.Context(), client, cfg, "d"))
	require.EqualValues(t, 2, starting.Hits())

	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, kafka.EnsureTopics(ctx, client, cfg, "e"), context.DeadlineExceeded, "a right may be granted")
}
