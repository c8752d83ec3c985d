package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

// RetryTopic names a group's topic for its nth retry, 1 to Retries.
func RetryTopic(group string, n int) string { return inbox.RetryTopic(group, n) }

// EnsureTopics returns when all topics exist, creating those that do not with
// cfg's partitions and replication. It waits for a broker that is down and for
// a cluster that is still coming up, and fails only when ctx ends or when the
// cluster refuses for a reason that waiting does not cure.
func EnsureTopics(ctx context.Context, client *kgo.Client, cfg Config, topics ...string) error {
	return ensureTopics(ctx, client, cfg, slog.New(slog.DiscardHandler), topics)
}

func ensureTopics(ctx context.Context, client *kgo.Client, cfg Config, log *slog.Logger, topics []string) error {
	wait := 100 * time.Millisecond
	for {
		err := createTopics(ctx, client, cfg, topics)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if refused, ok := errors.AsType[*refusedError](err); ok {
			return fmt.Errorf("create topics: %w", refused)
		}
		log.WarnContext(ctx, "kafka not ready, trying again", "error", explain(err).Error(), "brokers", strings.Join(cfg.Brokers, ","), "wait", wait.String())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // jitter, not a secret
		}
		wait = min(wait*2, 5*time.Second)
	}
}

// refusedError is an answer that stays the same until a setting or a topic's
// name is changed here.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

func createTopics(ctx context.Context, client *kgo.Client, cfg Config, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	adm := kadm.NewClient(client)
	have, err := adm.ListTopics(ctx, topics...)
	if err != nil {
		return err
	}
	var errs []error
	for _, large := range []bool{false, true} {
		var missing []string
		for _, t := range topics {
			if d := have[t]; (d.Err != nil || len(d.Partitions) == 0) && isLarge(t) == large {
				missing = append(missing, t)
			}
		}
		if len(missing) == 0 {
			continue
		}
		var configs map[string]*string
		if large {
			size := strconv.Itoa(maxRetryRecordBytes)
			configs = map[string]*string{"max.message.bytes": &size}
		}
		made, err := adm.CreateTopics(ctx, int32(max(1, cfg.Partitions)), replication(cfg), configs, missing...)
		if err != nil {
			return err
		}
		for _, t := range made.Sorted() {
			errs = append(errs, creationError(t))
		}
	}
	return errors.Join(errs...)
}

func replication(cfg Config) int16 {
	if cfg.Replication <= 0 {
		return -1
	}
	return int16(min(cfg.Replication, 32))
}

// isLarge tells retry and dead-letter topics by their names.
func isLarge(topic string) bool {
	return strings.HasSuffix(topic, ".dlq") || strings.Contains(topic, ".retry.")
}

func creationError(t kadm.CreateTopicResponse) error {
	switch {
	case t.Err == nil, errors.Is(t.Err, kerr.TopicAlreadyExists):
		return nil
	case errors.Is(t.Err, kerr.InvalidTopicException), errors.Is(t.Err, kerr.InvalidPartitions),
		errors.Is(t.Err, kerr.PolicyViolation), errors.Is(t.Err, kerr.InvalidConfig):
		return &refusedError{fmt.Errorf("topic %s: %w %s", t.Topic, t.Err, t.ErrMessage)}
	}
	// A missing right may be granted while we wait.
	// INVALID_REPLICATION_FACTOR too: brokers of a starting cluster register one
	// after another.
	return fmt.Errorf("topic %s: %w %s", t.Topic, t.Err, t.ErrMessage)
}
