package kafka

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

// recentClaims is how many claims a worker remembers, about 100 bytes each.
const recentClaims = 4096

// worker handles the records of one partition, one batch after the other. It is
// one goroutine, from the partition's assignment to its revocation.
type worker struct {
	c         *Consumer
	client    *kgo.Client
	topic     string
	partition int32
	level     int // of the retry topic, 0 for a main topic
	queue     queue

	stop   chan struct{}      // closed: finish the running batch, then end
	cancel context.CancelFunc // ends the running batch too
	done   chan struct{}

	recent *inbox.Recent
	limit  int          // records in the next batch: one after a failure, doubling after each success
	solo   bool         // the record after the next batch runs alone
	drains []inbox.Key  // keys that are free for their followers
	races  int          // transactions in a row that lost against others
	outage int          // failures in a row of the database
	end    atomic.Int64 // high watermark
	next   atomic.Int64 // offset after the last finished record, -1 before
}

func (c *Consumer) startWorker(client *kgo.Client, topic string, partition int32) *worker {
	// Not a child of Run's context: a shutdown lets the running batch finish.
	ctx, cancel := context.WithCancel(context.Background())
	w := &worker{
		c: c, client: client, topic: topic, partition: partition, level: c.levels[topic],
		stop: make(chan struct{}), cancel: cancel, done: make(chan struct{}),
		recent: inbox.NewRecent(recentClaims), limit: c.cc.BatchRecords,
	}
	w.queue.filled = make(chan struct{}, 1)
	w.next.Store(-1)
	go func() {
		defer close(w.done)
		defer cancel()
		w.run(ctx)
	}()
	return w
}

// run works until stop is closed or ctx ends. Records that it does not finish
// are not marked: whoever gets the partition next reads them again.
func (w *worker) run(ctx context.Context) {
	for {
		records := w.take(ctx)
		if records == nil {
			return
		}
		started := time.Now()
		items := make([]*item, 0, len(records))
		tally := tally{}
		for _, rec := range records {
			it := w.c.decode(rec, w.level)
			if w.recent.Has(it.claim) {
				tally.add(it.origin.topic, resultDuplicate)
				continue
			}
			items = append(items, it)
		}
		if !w.process(ctx, items) {
			return
		}
		for _, it := range items {
			w.recent.Add(it.claim)
			tally.add(it.topicLabel(), it.result)
		}
		last := records[len(records)-1]
		w.client.MarkCommitRecords(last)
		w.next.Store(last.Offset + 1)
		w.c.m.observe(tally, len(records))
		if w.c.log.Enabled(ctx, slog.LevelDebug) {
			w.c.log.DebugContext(ctx, "batch consumed", append(tally.attrs(),
				"topic", w.topic, "partition", w.partition, "first_offset", records[0].Offset, "last_offset", last.Offset,
				"records", len(records), "took", time.Since(started).String())...)
		}
		if !w.drainAll(ctx) {
			return
		}
	}
}

// topicLabel is the item's main topic, or "" for one that names none: metrics
// must not grow with what a record claims.
func (it *item) topicLabel() string {
	if it.sub == nil {
		return ""
	}
	return it.sub.Topic
}

// process ends with every item in one of the written outcomes, or false when the
// worker has to stop first.
//
// A batch fails as a whole. The records before the culprit are run again as one
// batch, the culprit alone, the others after it in batches that grow again. A
// culprit that is not known is found by halving.
func (w *worker) process(ctx context.Context, items []*item) bool {
	for len(items) > 0 {
		if w.stopping(ctx) {
			return false
		}
		if it := items[0]; it.refused != nil {
			switch w.settle(ctx, it, failure{it.refused, it.refused.class, w.c.now()}) {
			case stopped:
				return false
			case settled:
				items = items[1:]
			}
			continue
		}
		batch := w.cut(items)
		f := w.try(ctx, batch)
		if f == nil {
			w.races, w.outage = 0, 0
			items = items[len(batch):]
			w.limit = min(2*w.limit, w.c.cc.BatchRecords)
			if w.solo {
				w.solo, w.limit = false, 1
			}
			continue
		}
		switch {
		case f.class == classStopped:
			return false
		case f.class == classInfrastructure:
			if !w.awaitDatabase(ctx, f.err) {
				return false
			}
		case f.class == classRace:
			// Smaller batches hold fewer locks.
			if w.races++; w.races > 3 && len(batch) > 1 {
				w.limit = len(batch) / 2
			}
			if !w.pause(ctx, w.races) {
				return false
			}
		case len(batch) == 1:
			switch w.settle(ctx, batch[0], failure{f.err, f.class, w.c.now()}) {
			case stopped:
				return false
			case settled:
				items = items[1:]
			}
			w.limit, w.solo = 1, false
		case f.index > 0:
			w.limit, w.solo = f.index, true
		case f.index == 0:
			w.limit, w.solo = 1, false
		default:
			w.limit, w.solo = len(batch)/2, false
		}
	}
	return true
}

// settlement is what became of a failure.
type settlement int

const (
	settled settlement = iota // the attempt and what comes of it are recorded
	undone                    // nothing is: the attempt is made again
	stopped                   // the worker has to stop first
)

// settle records the failure of an item. When the database is away, so that
// nothing can be recorded, the failure may well have the same cause: then it is
// forgotten and the attempt made again.
func (w *worker) settle(ctx context.Context, it *item, f failure) settlement {
	for races := 1; ; races++ {
		fault := w.fail(ctx, it, f)
		switch {
		case fault == nil:
			w.outage = 0
			return settled
		case fault.class == classStopped:
			return stopped
		case fault.class == classRace:
			if !w.pause(ctx, races) {
				return stopped
			}
		default:
			if !w.awaitDatabase(ctx, fault.err) {
				return stopped
			}
			it.forget()
			return undone
		}
	}
}

// forget drops a failed Prepare, so that it is called again.
func (it *item) forget() {
	if it.prepareErr != nil {
		it.prepared, it.prepareErr, it.isPrepared = nil, nil, false
	}
}

// cut returns the next batch: at most limit items, up to the first that no
// handler may see, and to the first whose key is in the batch already when its
// subscription prepares: Prepare has to see what the record before it did.
func (w *worker) cut(items []*item) []*item {
	n := min(len(items), w.limit)
	var seen map[inbox.Key]bool
	for i, it := range items[:n] {
		if it.refused != nil {
			return items[:i]
		}
		if it.sub.Prepare == nil || !it.keyed {
			continue
		}
		if seen[it.key] {
			return items[:i]
		}
		if seen == nil {
			seen = map[inbox.Key]bool{}
		}
		seen[it.key] = true
	}
	return items[:n]
}

func (w *worker) stopping(ctx context.Context) bool {
	select {
	case <-w.stop:
		// The running batch is what try has begun; anything after it can wait.
		return true
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// pause waits a moment that grows and varies, so that two transactions that
// lost against each other do not meet again.
func (w *worker) pause(ctx context.Context, n int) bool {
	return w.sleep(ctx, time.Duration(min(n, 20))*5*time.Millisecond/2+rand.N(10*time.Millisecond)) //nolint:gosec // jitter
}

// sleep returns false when the worker has to stop.
func (w *worker) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.stop:
		return false
	case <-ctx.Done():
		return false
	}
}
