package outbox

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// RelayConfig tunes a Relay; zero values mean the defaults in brackets.
type RelayConfig struct {
	Batch     int           // rows per read at most [2000]
	BatchSize int           // bytes per read at most, or one record [4 MiB]
	InFlight  int           // batches that await their acknowledgement at most [3]
	MaxGaps   int           // open gaps at most; then wait for running transactions [2048]
	Lease     time.Duration // how long others wait for a leader that froze [5 s]
	PollMin   time.Duration // first poll after activity, where no doorbell tells of the next [5 ms]
	PollMax   time.Duration // poll when idle [250 ms]
	Pace      time.Duration // from one read to the next at least, unless it found a full page [0]
	BatchPace time.Duration // the same while nothing published awaits an answer, which is what a Session emits; no more than Pace [Pace]
	Drain     time.Duration // how long a shutdown waits for acknowledgements [5 s]
	Retention time.Duration // how long published rows are kept; negative: for ever [24 h]
	Prune     time.Duration // pause between looks for old rows [1 min]
}

func (c RelayConfig) withDefaults() RelayConfig {
	c.Batch = cmp.Or(c.Batch, 2000)
	c.BatchSize = cmp.Or(c.BatchSize, 4<<20)
	c.InFlight = cmp.Or(c.InFlight, 3)
	c.MaxGaps = cmp.Or(c.MaxGaps, 2048)
	c.Lease = cmp.Or(c.Lease, 5*time.Second)
	c.BatchPace = min(cmp.Or(c.BatchPace, c.Pace), c.Pace)
	c.PollMin = cmp.Or(c.PollMin, 5*time.Millisecond)
	c.PollMax = cmp.Or(c.PollMax, 250*time.Millisecond)
	c.Drain = cmp.Or(c.Drain, 5*time.Second)
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	c.Prune = cmp.Or(c.Prune, time.Minute)
	return c
}

// Relay publishes the outbox to Kafka: every committed row at least once, the
// rows of one key in one topic in the order of their seq.
//
// Every replica runs one. One of them leads, by a lease in msg.outbox_cursor
// whose epoch fences every later write of a deposed leader. The leader reads
// rows behind its position and in gaps, with one statement and so one snapshot,
// produces them in order with a few batches in flight, and stores the position
// after all acknowledgements. A seq that is missing below a visible row is kept
// as a gap until it shows up or until every transaction that could own it has
// ended; see sqlAdvance for how that is told. So no row is skipped, and neither
// a slow transaction nor one left open anywhere in the cluster holds up others,
// as long as fewer than MaxGaps gaps are open.
//
// Memory: at most InFlight times BatchSize in rows, plus one record.
type Relay struct {
	db     *DB
	cl     *kgo.Client
	cfg    RelayConfig
	log    *slog.Logger
	m      *metrics
	name   string
	cc     *pgx.ConnConfig
	tracer trace.Tracer

	// What tests replace: to stop at points where a crash matters, and to show
	// that each of these rules is needed.
	at   func(point string)
	step func(c cursor, seqs []int64, xmin int64, cut bool, limit int) (cursor, int)
	sql  statements
}

type statements struct{ acquire, read, advance string }

// NewRelay returns a relay that publishes db's outbox through client, which
// needs idempotence (franz-go's default), acks from all in-sync replicas and no
// limit on retries, as kafka.NewClient sets them. It connects to db's database
// with one connection of its own. reg may be nil.
func NewRelay(db *DB, client *kgo.Client, cfg RelayConfig, log *slog.Logger, reg prometheus.Registerer) *Relay {
	cc := db.Pool.Config().ConnConfig
	for name, value := range map[string]string{
		// Every read starts at a known place of the primary key, however large
		// the table is and whatever the statistics say.
		"enable_seqscan": "off", "enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan", "jit": "off",
		// A crash may take back the last cursor updates: rows are then
		// published again. It cannot take back anything they rest on.
		"synchronous_commit": "off",
		"application_name":   "outbox-relay",
	} {
		cc.RuntimeParams[name] = value
	}
	return &Relay{
		db: db, cl: client, cfg: cfg.withDefaults(), log: log, m: newMetrics(reg),
		name: uuid.NewString(), cc: cc,
		tracer: otel.Tracer("github.com/tiffin-platform/tiffin/pkg/outbox"),
		at:     func(string) {}, step: cursor.advance, sql: statements{sqlAcquire, sqlRead, sqlAdvance},
	}
}

// Run publishes until ctx ends, then waits for acknowledgements, stores the
// position and resigns. It survives any outage of the database and of Kafka and
// returns nil.
func (r *Relay) Run(ctx context.Context) error {
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		started := time.Now()
		err := r.connected(ctx)
		if err == nil || ctx.Err() != nil {
			return nil //nolint:nilerr // what broke while stopping is no news
		}
		if time.Since(started) > 10*time.Second {
			wait = 100 * time.Millisecond
		}
		r.log.WarnContext(ctx, "outbox relay interrupted, trying again", "error", postgres.Explain(err).Error(), "wait", wait.String())
		pause(ctx, wait/2+rand.N(wait)) //nolint:gosec // jitter
		wait = min(2*wait, 5*time.Second)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// connected campaigns and leads on one connection until it breaks or ctx ends.
func (r *Relay) connected(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, r.cc.Copy())
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	vacant, stop := r.subscribe(leaderKey)
	defer stop()
	for ctx.Err() == nil {
		term, at, err := acquire(ctx, conn, r.sql.acquire, r.name, r.cfg.Lease)
		if err != nil {
			return err
		}
		if term == nil {
			poll := time.NewTimer(min(500*time.Millisecond, r.cfg.Lease/4))
			select {
			case <-ctx.Done():
			case <-vacant:
			case <-poll.C:
			}
			poll.Stop()
			continue
		}
		if err := r.lead(ctx, term, at); err != nil && !errors.Is(err, errDeposed) {
			return err
		}
	}
	return nil
}

func (r *Relay) subscribe(key string) (<-chan struct{}, func()) {
	if r.db.bell == nil {
		return nil, func() {}
	}
	return r.db.bell.Subscribe(key)
}

// lead publishes for one term of leadership.
func (r *Relay) lead(ctx context.Context, term *lease, at cursor) error {
	r.log.InfoContext(ctx, "outbox relay leads", "epoch", term.epoch, "pos", at.pos, "gaps", len(at.gaps))
	r.m.leader.Set(1)
	p := newPublisher(r, term, at)
	// Old rows are deleted beside the work, for as long as the term lasts.
	pruning, stop := context.WithCancel(ctx)
	g := errgroup.Group{}
	g.Go(func() error {
		r.prune(pruning, term.epoch, &p.published)
		return nil
	})
	err := p.run(ctx)
	stop()
	_ = g.Wait()
	r.m.leader.Set(0)
	r.m.backlog.Set(0)
	r.m.lag.Set(0)
	reason := "shutdown"
	if err != nil {
		reason = err.Error()
	}
	r.log.InfoContext(ctx, "outbox relay leads no more", "epoch", term.epoch, "pos", p.stored.pos, "in_flight", len(p.flight), "reason", reason)
	p.settle(ctx)
	if err != nil {
		return err
	}
	if err := term.resign(ctx); err != nil {
		return err
	}
	if r.db.bell != nil {
		r.db.bell.Ring(leaderKey)
	}
	return nil
}
