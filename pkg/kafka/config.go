package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/env"
)

// Config says which cluster to use and how its topics are made.
type Config struct {
	Brokers     []string // host:port of some brokers; the client finds the rest
	Partitions  int      // of topics that are created, 12 by default
	Replication int      // of topics that are created; -1 leaves it to the broker

	// MetadataMaxAge is how soon new partitions and brokers are noticed, 1m by
	// default.
	MetadataMaxAge time.Duration

	TLS *tls.Config // nil: plaintext

	SASLMechanism string // "", PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	SASLUsername  string
	SASLPassword  string
}

// Mechanisms of SASL that NewClient speaks.
const (
	SASLPlain       = "PLAIN"
	SASLScramSHA256 = "SCRAM-SHA-256"
	SASLScramSHA512 = "SCRAM-SHA-512"
)

// ConfigFrom reads KAFKA_BROKERS, KAFKA_TOPIC_PARTITIONS,
// KAFKA_TOPIC_REPLICATION, KAFKA_TLS, KAFKA_TLS_CA (PEM), KAFKA_SASL_MECHANISM,
// KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD.
func ConfigFrom(r *env.Reader) Config {
	c := Config{
		Brokers:       r.List("KAFKA_BROKERS", "localhost:9092"),
		Partitions:    r.Int("KAFKA_TOPIC_PARTITIONS", 12, 1, 10_000),
		Replication:   r.Int("KAFKA_TOPIC_REPLICATION", -1, -1, 32),
		SASLMechanism: r.String("KAFKA_SASL_MECHANISM", ""),
		SASLUsername:  r.String("KAFKA_SASL_USERNAME", ""),
		SASLPassword:  r.Secret("KAFKA_SASL_PASSWORD"),
	}
	if c.Replication == 0 {
		r.Fail("KAFKA_TOPIC_REPLICATION", "must be -1 (the broker's default) or at least 1")
	}
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || n == 0 {
			r.Fail("KAFKA_BROKERS", "%q must be host:port", b)
		}
	}
	ca := r.String("KAFKA_TLS_CA", "")
	if r.Bool("KAFKA_TLS", false) {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if ca != "" {
			c.TLS.RootCAs = x509.NewCertPool()
			if !c.TLS.RootCAs.AppendCertsFromPEM([]byte(ca)) {
				r.Fail("KAFKA_TLS_CA", "holds no PEM certificate")
			}
		}
	} else if ca != "" {
		r.Fail("KAFKA_TLS_CA", "set KAFKA_TLS=true as well")
	}
	if err := c.checkSASL(); err != nil {
		r.Fail("KAFKA_SASL_MECHANISM", "%v", err)
	}
	return c
}

func (c Config) checkSASL() error {
	switch c.SASLMechanism {
	case "":
		if c.SASLUsername != "" || c.SASLPassword != "" {
			return errors.New("a user name or password is set, but no mechanism")
		}
	case SASLPlain, SASLScramSHA256, SASLScramSHA512:
		if c.SASLUsername == "" || c.SASLPassword == "" {
			return fmt.Errorf("%s needs KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD", c.SASLMechanism)
		}
	default:
		return fmt.Errorf("%q must be one of %s, %s, %s", c.SASLMechanism, SASLPlain, SASLScramSHA256, SASLScramSHA512)
	}
	return nil
}

func (c Config) validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("kafka: no brokers")
	}
	return c.checkSASL()
}

// Retries after the first try, and so the number of retry topics of a group.
const Retries = 3

// ConsumerConfig says how a group consumes. The zero value of every field but
// Group and DLQ stands for its default.
type ConsumerConfig struct {
	Group string // the service's name; also the prefix of its retry topics
	DLQ   string // the topic of its dead letters

	RetryDelays []time.Duration // one per retry: 5s, 30s, 2m
	// Retention is how long the ids of handled events are remembered (14 days).
	// An event older than that is dead-lettered, never applied: whether it was
	// handled before is no longer known. Topics must keep their records for
	// less.
	Retention time.Duration

	BatchRecords int // records in one transaction at most, 500
	BatchBytes   int // their keys and values at most, 1 MiB
	QueueRecords int // records that may wait per partition, 2000, and then what one fetch brings

	PrepareConcurrency int           // Prepare calls at once in the process, 32
	PrepareTimeout     time.Duration // deadline of one Prepare call, 30s
	ShutdownTimeout    time.Duration // for a running batch at shutdown or rebalance, 10s

	// ParkedLimit is about how many events may wait behind one key, 10,000. At the
	// limit the key's partition waits too.
	ParkedLimit int

	SweepInterval time.Duration // between looks for parked keys that somebody left, 5s
	OverdueAfter  time.Duration // how late a retry record may be before its event is tried without it, 1m
	WatchInterval time.Duration // between looks at parked and dead events, and at the topics, 15s
	PruneInterval time.Duration // between prunings of processed events, 10m
}

// ConsumerConfigFrom reads RETRY_DELAYS and PROCESSED_RETENTION.
func ConsumerConfigFrom(r *env.Reader, group, dlq string) ConsumerConfig {
	cc := ConsumerConfig{
		Group: group, DLQ: dlq,
		RetryDelays: r.Durations("RETRY_DELAYS", []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute}),
		Retention:   r.Duration("PROCESSED_RETENTION", 14*24*time.Hour, time.Hour, 10*365*24*time.Hour),
	}
	if len(cc.RetryDelays) != Retries {
		r.Fail("RETRY_DELAYS", "must be %d durations such as 5s,30s,2m", Retries)
	}
	return cc
}

func (cc ConsumerConfig) withDefaults() (ConsumerConfig, error) {
	if cc.Group == "" || cc.DLQ == "" {
		return cc, errors.New("kafka: a consumer needs a group and a dead-letter topic")
	}
	if cc.RetryDelays == nil {
		cc.RetryDelays = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute}
	}
	if len(cc.RetryDelays) != Retries {
		return cc, fmt.Errorf("kafka: %d retry delays, need %d", len(cc.RetryDelays), Retries)
	}
	if cc.Retention == 0 {
		cc.Retention = 14 * 24 * time.Hour
	}
	setDefault(&cc.BatchRecords, 500)
	setDefault(&cc.BatchBytes, 1<<20)
	setDefault(&cc.QueueRecords, 2000)
	setDefault(&cc.PrepareConcurrency, 32)
	setDefault(&cc.PrepareTimeout, 30*time.Second)
	setDefault(&cc.ShutdownTimeout, 10*time.Second)
	setDefault(&cc.ParkedLimit, 10_000)
	setDefault(&cc.SweepInterval, 5*time.Second)
	setDefault(&cc.OverdueAfter, time.Minute)
	setDefault(&cc.WatchInterval, 15*time.Second)
	setDefault(&cc.PruneInterval, 10*time.Minute)
	return cc, nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}
