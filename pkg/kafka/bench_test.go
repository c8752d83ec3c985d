package kafka_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// BenchmarkConsume measures a backlog of b.N events that is consumed with one
// insert per event. Give -benchtime a count, such as 200000x.
func BenchmarkConsume(b *testing.B) {
	insert := `insert into effects (event_id, key, note) values ($1, $2, $3)`
	for name, apply := range map[string]func(context.Context, *outbox.Tx, event.Event, event.OrderCancelled) error{
		"queued": func(_ context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
			tx.Queue(insert, [16]byte(e.ID), e.Subject, p.Reason)
			return nil
		},
		"roundtrip": func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
			_, err := tx.Exec(ctx, insert, [16]byte(e.ID), e.Subject, p.Reason)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) { benchmarkConsume(b, apply) })
	}
}

func benchmarkConsume(b *testing.B, apply func(context.Context, *outbox.Tx, event.Event, event.OrderCancelled) error) {
	log := slog.New(slog.DiscardHandler)
	cfg, _ := kafkatest.NewCluster(b)
	cfg.Partitions = 12
	db := outbox.NewDB(pgtest.New(b, schema), nil)
	client, err := kafka.NewClient(cfg, "bench", log, nil)
	require.NoError(b, err)
	defer client.Close()
	require.NoError(b, kafka.EnsureTopics(b.Context(), client, cfg, topic))
	for range b.N {
		client.Produce(b.Context(), record(order(uuid.New(), "a reason of ordinary length")), func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	require.NoError(b, client.Flush(b.Context()))

	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	counted := func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if left.Add(-1) == 0 {
			close(done)
		}
		return apply(ctx, tx, e, p)
	}
	c, err := kafka.NewConsumer(cfg, kafka.ConsumerConfig{Group: group, DLQ: dlq}, db, log, nil, kafka.On(number, topic, counted))
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ResetTimer()
	go func() { ended <- c.Run(ctx) }()
	<-done
	cancel()
	require.NoError(b, <-ended) // with the last commits
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	var n int
	require.NoError(b, db.Pool.QueryRow(b.Context(), `select count(*) from effects`).Scan(&n))
	require.Equal(b, b.N, n)
}
