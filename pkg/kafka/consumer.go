package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/coalesce"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Consumer runs a group's subscriptions.
type Consumer struct {
	cfg     Config
	cc      ConsumerConfig
	db      *outbox.DB
	log     *slog.Logger
	reg     prometheus.Registerer
	m       *metrics
	tracer  trace.Tracer // nil when tracing is off
	now     func() time.Time
	at      func(point, what string) // tests stop here, where a crash matters
	subs    map[string]*Subscription // by topic
	numbers map[int16]*Subscription
	levels  map[string]int // of the retry topics

	slots    slots // transactions at once: some connections are for the service's clients
	prepares slots
	looks    *coalesce.Calls[look, seen]
	rounds   rounds                // of batches that prepare and do not linger
	groups   map[bool]*groupCommit // by whether their batches prepare
	outage   outage
	hot      atomic.Pointer[map[inbox.Key]bool] // keys with more followers than may be parked
	room     chan struct{}                      // buffered 1: a full queue has room again
	joined   atomic.Pointer[kgo.Client]         // nil until the topics exist

	mu      sync.Mutex
	workers map[place]*worker
}

// place is a partition.
type place struct {
	topic     string
	partition int32
}

// NewConsumer returns a consumer of subs. It does no I/O; its errors are about
// its arguments. reg may be nil.
func NewConsumer(cfg Config, cc ConsumerConfig, db *outbox.DB, log *slog.Logger, reg prometheus.Registerer, subs ...Subscription) (*Consumer, error) {
	cc, err := cc.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(cfg.validate(), validate(subs)); err != nil {
		return nil, err
	}
	c := &Consumer{
		cfg: cfg, cc: cc, db: db, log: log, reg: reg, m: newMetrics(reg), now: time.Now, at: func(string, string) {},
		subs: map[string]*Subscription{}, numbers: map[int16]*Subscription{}, levels: map[string]int{},
		slots:    make(slots, max(1, db.Pool.Config().MaxConns/2)),
		prepares: make(slots, cc.PrepareConcurrency),
		rounds:   rounds{patience: groupPatience},
		groups:   map[bool]*groupCommit{false: newGroupCommit(), true: newGroupCommit()},
		room:     make(chan struct{}, 1),
		workers:  map[place]*worker{},
	}
	c.looks = coalesce.New(16, cc.PrepareTimeout, c.look)
	if obs.Tracing() {
		c.tracer = otel.Tracer("github.com/tiffin-platform/tiffin/pkg/kafka")
	}
	for i := range subs {
		sub := &subs[i]
		c.subs[sub.Topic], c.numbers[sub.Consumer] = sub, sub
	}
	for n := 1; n <= Retries; n++ {
		c.levels[RetryTopic(cc.Group, n)] = n
	}
	if _, err := c.groupOpts(); err != nil {
		return nil, err
	}
	if reg != nil {
		reg.MustRegister(newProgress(c))
	}
	return c, nil
}

// Run creates the group's topics and consumes until ctx ends. It waits for a
// broker and a database that are down; its error is about what waiting does not
// cure. At the end the running batches have a limited time to commit.
func (c *Consumer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.sweep(ctx) })
	g.Go(func() error { return c.watch(ctx) })
	g.Go(func() error { return c.prune(ctx) })
	g.Go(func() error { return c.keepTopics(ctx) })
	g.Go(func() error { return c.consume(ctx) })
	return g.Wait()
}

// Topics returns what the group reads and writes: the topics of its
// subscriptions, its retry topics and its dead-letter topic.
func (c *Consumer) Topics() []string { return append(c.reads(), c.cc.DLQ) }

func (c *Consumer) reads() []string {
	topics := make([]string, 0, len(c.subs)+len(c.levels)+1)
	for t := range c.subs {
		topics = append(topics, t)
	}
	for t := range c.levels {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	return topics
}

func (c *Consumer) consume(ctx context.Context) error {
	// The topics come first: a group that is joined before they exist would be
	// rebalanced once for each.
	if err := c.ensure(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the run ends
		}
		return err
	}
	client, err := c.newClient()
	if err != nil {
		return err
	}
	c.joined.Store(client)
	c.log.InfoContext(ctx, "consuming", "group", c.cc.Group, "topics", c.reads())
	c.poll(ctx, client)
	c.leave(client)
	return nil
}

func (c *Consumer) ensure(ctx context.Context) error {
	opts, err := clientOpts(c.cfg, c.cc.Group, c.log)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer client.Close()
	return ensureTopics(ctx, client, c.cfg, c.log, c.Topics())
}

func (c *Consumer) newClient() (*kgo.Client, error) {
	opts, err := c.groupOpts()
	if err != nil {
		return nil, err
	}
	if c.reg != nil {
		opts = append(opts, kgo.WithHooks(clientMetrics(c.reg, "consumer")))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return client, nil
}

func (c *Consumer) groupOpts() ([]kgo.Opt, error) {
	opts, err := clientOpts(c.cfg, c.cc.Group, c.log)
	if err != nil {
		return nil, err
	}
	opts = append(opts,
		kgo.ConsumerGroup(c.cc.Group),
		kgo.ConsumeTopics(c.reads()...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.BlockRebalanceOnPoll(),
		// A group that is new to a topic, or whose offset is gone, must miss nothing.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(time.Second),
		kgo.OnPartitionsAssigned(c.assigned),
		kgo.OnPartitionsRevoked(c.revoked),
		kgo.OnPartitionsLost(c.lost),
		// A killed member holds its partitions until its session ends: Kafka's
		// default of 45 s would be felt. Brokers allow 6 s and more.
		kgo.SessionTimeout(10*time.Second),
		kgo.HeartbeatInterval(2*time.Second),
		kgo.RebalanceTimeout(c.cc.ShutdownTimeout+20*time.Second),
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(500*time.Millisecond),
	)
	if err := kgo.ValidateOpts(opts...); err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return opts, nil
}

// poll hands what is fetched to the workers, until ctx ends.
func (c *Consumer) poll(ctx context.Context, client *kgo.Client) {
	for ctx.Err() == nil {
		c.awaitRoom(ctx)
		fetches := client.PollRecords(ctx, 10_000)
		remade := map[string]bool{}
		fetches.EachError(func(topic string, partition int32, err error) {
			if ctx.Err() == nil {
				remade[topic] = remade[topic] || errors.Is(err, kerr.UnknownTopicID)
				c.log.WarnContext(ctx, "fetch failed", "topic", topic, "partition", partition, "error", explain(err).Error())
			}
		})
		c.mu.Lock()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			w := c.workers[place{p.Topic, p.Partition}]
			if w == nil || len(p.Records) == 0 {
				return
			}
			w.next.CompareAndSwap(-1, p.Records[0].Offset)
			w.end.Store(p.HighWatermark)
			w.put(p.Records)
		})
		c.mu.Unlock()
		client.AllowRebalance()
		for topic, is := range remade {
			if is {
				c.startOver(client, topic)
			}
		}
	}
}

// startOver consumes a topic from its start that was deleted and made again:
// the client refuses to take it for the one that it knew.
func (c *Consumer) startOver(client *kgo.Client, topic string) {
	c.mu.Lock()
	var at []place
	for p := range c.workers {
		if p.topic == topic {
			at = append(at, p)
		}
	}
	c.mu.Unlock()
	c.stopWorkers(at, c.cc.ShutdownTimeout)
	client.PurgeTopicsFromConsuming(topic)
	client.AddConsumeTopics(topic)
}

// keepTopics makes topics again that somebody deleted. Their records are gone;
// the next ones need not be.
func (c *Consumer) keepTopics(ctx context.Context) error {
	return every(ctx, c.cc.WatchInterval, func() {
		client := c.joined.Load()
		if client == nil {
			return
		}
		if err := createTopics(ctx, client, c.cfg, c.Topics()); err != nil && ctx.Err() == nil {
			c.log.DebugContext(ctx, "topics not checked, the next time will do", "error", err.Error())
		}
	})
}

// leave stops the workers and leaves the group, which revokes the partitions and
// so commits what was finished.
func (c *Consumer) leave(client *kgo.Client) {
	c.joined.Store(nil)
	c.mu.Lock()
	all := make([]place, 0, len(c.workers))
	for p := range c.workers {
		all = append(all, p)
	}
	c.mu.Unlock()
	c.stopWorkers(all, c.cc.ShutdownTimeout)
	limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client.AllowRebalance()
	if err := client.LeaveGroupContext(limit); err != nil {
		c.log.Warn("group not left, its partitions wait for the session to time out", "error", err.Error())
	}
	client.CloseAllowingRebalance()
}

func (c *Consumer) assigned(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, list := range partitions {
		for _, p := range list {
			if c.workers[place{topic, p}] == nil {
				c.workers[place{topic, p}] = c.startWorker(client, topic, p)
			}
		}
	}
}

// revoked lets the partitions' running batches finish and commits them, before
// another member reads on.
func (c *Consumer) revoked(ctx context.Context, client *kgo.Client, partitions map[string][]int32) {
	c.stopWorkers(places(partitions), c.cc.ShutdownTimeout)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := client.CommitMarkedOffsets(ctx); err != nil {
		c.log.Warn("offsets not committed, the next member reads some records again", "error", err.Error())
	}
	client.ResumeFetchPartitions(partitions) // a pause outlives a rebalance
}

// lost cancels: another member may be at work already, and claims keep both
// from doing the same thing.
func (c *Consumer) lost(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	c.stopWorkers(places(partitions), 0)
	client.ResumeFetchPartitions(partitions)
}

func places(partitions map[string][]int32) []place {
	var all []place
	for topic, list := range partitions {
		for _, p := range list {
			all = append(all, place{topic, p})
		}
	}
	return all
}

// stopWorkers ends workers: first it asks, after grace it cancels their
// transactions.
func (c *Consumer) stopWorkers(at []place, grace time.Duration) {
	c.mu.Lock()
	var ending []*worker
	for _, p := range at {
		if w := c.workers[p]; w != nil {
			delete(c.workers, p)
			ending = append(ending, w)
			close(w.stop)
		}
	}
	c.mu.Unlock()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	for _, w := range ending {
		select {
		case <-w.done:
		case <-patience.C:
			for _, w := range ending {
				w.cancel()
			}
			<-w.done
		}
	}
}

// Health reports whether the broker answers. A service takes requests without
// it; its events wait.
func (c *Consumer) Health(ctx context.Context) error {
	client := c.joined.Load()
	if client == nil {
		return errors.New("kafka: not connected yet")
	}
	if err := client.Ping(ctx); err != nil {
		return explain(fmt.Errorf("kafka: %w", err))
	}
	return nil
}
