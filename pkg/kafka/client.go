package kafka

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/plugin/kprom"
)

// Sizes, in bytes. Main topics have Kafka's default limit of 1 MiB per batch of
// records, which one event fits (outbox.MaxEventBytes). Retry and dead-letter
// topics take more, because a record gains headers on its way there.
const (
	maxBatchBytes       = 1_000_012
	maxRetryRecordBytes = 1<<20 + 256<<10
)

// NewClient returns a client with the settings of the outbox relay's producer:
// idempotent, acknowledged by all in-sync replicas, never giving up on a record
// by itself. It does no I/O; its errors are about cfg only. reg may be nil.
func NewClient(cfg Config, service string, log *slog.Logger, reg prometheus.Registerer, opts ...kgo.Opt) (*kgo.Client, error) {
	all, err := clientOpts(cfg, service, log)
	if err != nil {
		return nil, err
	}
	if reg != nil {
		all = append(all, kgo.WithHooks(clientMetrics(reg, "producer")))
	}
	all = append(all,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordRetries(math.MaxInt),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
			if isLarge(topic) {
				return maxRetryRecordBytes
			}
			return maxBatchBytes
		}),
		kgo.MaxBufferedRecords(50_000),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	client, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return client, nil
}

func clientMetrics(reg prometheus.Registerer, role string) *kprom.Metrics {
	// Client metrics of one process under one name, told apart by role.
	return kprom.NewMetrics("tiffin_kafka",
		kprom.Registerer(prometheus.WrapRegistererWith(prometheus.Labels{"role": role}, reg)))
}

// clientOpts are the settings that producers and consumers share.
func clientOpts(cfg Config, service string, log *slog.Logger) ([]kgo.Opt, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID(service),
		kgo.SoftwareNameAndVersion("tiffin", "1"),
		kgo.WithLogger(clientLog{log}),
		kgo.Dialer(dialer(cfg)),
		kgo.ConnIdleTimeout(5 * time.Minute),
		// The client's own push of metrics to the broker (KIP-714) tells nothing
		// that /metrics does not, and keeps 8 MiB of compressor.
		kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(func(fails int) time.Duration {
			return min(50*time.Millisecond<<min(fails, 6), 2*time.Second)
		}),
		kgo.MetadataMinAge(min(250*time.Millisecond, cmp.Or(cfg.MetadataMaxAge, time.Minute))),
		kgo.MetadataMaxAge(cmp.Or(cfg.MetadataMaxAge, time.Minute)),
	}
	if cfg.SASLMechanism != "" {
		opts = append(opts, kgo.SASL(mechanism(cfg)))
	}
	return opts, nil
}

func mechanism(cfg Config) sasl.Mechanism {
	auth := scram.Auth{User: cfg.SASLUsername, Pass: cfg.SASLPassword}
	switch cfg.SASLMechanism {
	case SASLScramSHA256:
		return auth.AsSha256Mechanism()
	case SASLScramSHA512:
		return auth.AsSha512Mechanism()
	default:
		return plain.Auth{User: cfg.SASLUsername, Pass: cfg.SASLPassword}.AsMechanism()
	}
}

func dialer(cfg Config) func(ctx context.Context, network, host string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	if cfg.TLS == nil {
		return d.DialContext
	}
	return func(ctx context.Context, network, host string) (net.Conn, error) {
		return dialTLS(ctx, d, cfg, network, host)
	}
}

// clientLog passes the library's warnings and errors on. Its informational
// lines tell of every metadata change and are worth a debug line at most.
type clientLog struct{ log *slog.Logger }

func (l clientLog) Level() kgo.LogLevel {
	if l.log == nil {
		return kgo.LogLevelNone
	}
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelWarn
}

func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	switch level {
	case kgo.LogLevelError:
		to = slog.LevelError
	case kgo.LogLevelWarn:
		to = slog.LevelWarn
	default:
	}
	// Keys of the library have spaces in some places; attributes are snake_case.
	for i := 0; i+1 < len(keyvals); i += 2 {
		if k, ok := keyvals[i].(string); ok {
			keyvals[i] = strings.ReplaceAll(k, " ", "_")
		}
	}
	l.log.Log(context.Background(), to, "kafka client: "+msg, keyvals...)
}
