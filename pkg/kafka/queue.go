package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

const (
	// queueBytes makes a queue full, as QueueRecords does, whichever comes first.
	queueBytes = 4 << 20
	// patience is how long all partitions wait for the one whose queue is full,
	// before that one is paused. A pause is dear: what was fetched is dropped, and
	// the next fetch begins when the present one ends. A worker that only has a
	// backlog makes room much sooner; one that stands still is paused and holds
	// up nobody.
	patience = 50 * time.Millisecond
)

// queue holds the records of a partition that were fetched and not yet taken.
// The poll loop puts, the worker takes.
type queue struct {
	mu      sync.Mutex
	records []*kgo.Record
	bytes   int
	paused  bool
	filled  chan struct{} // buffered 1: something was put

	waits   int64     // offset of the retry record that waits at the head
	waiting time.Time // since when
}

func recordSize(r *kgo.Record) int { return len(r.Key) + len(r.Value) }

// full is called with mu held.
func (w *worker) full() bool {
	return len(w.queue.records) >= w.c.cc.QueueRecords || w.queue.bytes >= queueBytes
}

// put adds records.
func (w *worker) put(records []*kgo.Record) {
	q := &w.queue
	q.mu.Lock()
	q.records = append(q.records, records...)
	for _, r := range records {
		q.bytes += recordSize(r)
	}
	q.mu.Unlock()
	select {
	case q.filled <- struct{}{}:
	default:
	}
}

// take waits for records and returns as many as fit into a batch, of a retry
// topic only those that are due. It returns nil when the worker has to stop.
func (w *worker) take(ctx context.Context) []*kgo.Record {
	for {
		select { // the stop comes first, whatever else is ready
		case <-w.stop:
			return nil
		default:
		}
		batch, wait := w.ready()
		if batch != nil {
			return batch
		}
		if !w.waitFilled(ctx, wait) {
			return nil
		}
	}
}

func (w *worker) waitFilled(ctx context.Context, wait time.Duration) bool {
	var due <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-w.stop:
		return false
	case <-w.queue.filled:
	case <-due:
	}
	return true
}

// ready returns the next batch, or how long until the first record is due.
func (w *worker) ready() ([]*kgo.Record, time.Duration) {
	q := &w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.records) && n < w.c.cc.BatchRecords {
		r := q.records[n]
		if wait := w.untilDue(r); wait > 0 {
			if n == 0 {
				return nil, wait
			}
			break
		}
		if bytes += recordSize(r); n > 0 && bytes > w.c.cc.BatchBytes {
			bytes -= recordSize(r)
			break
		}
		n++
	}
	if n == 0 {
		return nil, 0
	}
	batch, wasFull := q.records[:n:n], w.full()
	q.records, q.bytes = q.records[n:], q.bytes-bytes
	if wasFull && !w.full() {
		select {
		case w.c.room <- struct{}{}:
		default:
		}
	}
	if q.paused && len(q.records) <= w.c.cc.QueueRecords/2 && q.bytes <= queueBytes/2 {
		q.paused = false
		w.client.ResumeFetchPartitions(map[string][]int32{w.topic: {w.partition}})
	}
	return batch, 0
}

// untilDue returns how long a record of a retry topic has to wait yet. The
// header was written by this group's clock, or forged, and the clock may be set
// back meanwhile: nothing waits longer than the topic's delay from when it was
// first looked at.
func (w *worker) untilDue(r *kgo.Record) time.Duration {
	if w.level == 0 {
		return 0
	}
	q, delay := &w.queue, w.c.cc.RetryDelays[w.level-1]
	due := readTime((&item{headers: r.Headers}).header(inbox.HeaderRetryDue))
	if due.IsZero() {
		due = r.Timestamp.Add(delay)
	}
	if q.waits != r.Offset || q.waiting.IsZero() {
		q.waits, q.waiting = r.Offset, time.Now()
	}
	return min(due.Sub(w.c.now()), delay-time.Since(q.waiting))
}

// awaitRoom returns when no queue is full but those of paused partitions. A
// partition whose queue stays full is paused; one that has room again goes on.
func (c *Consumer) awaitRoom(ctx context.Context) {
	var timer *time.Timer
	for {
		full := c.fullWorkers()
		if len(full) == 0 {
			return
		}
		if timer == nil {
			timer = time.NewTimer(patience)
			defer timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-c.room:
		case <-timer.C:
			for _, w := range full {
				w.pauseIfFull()
			}
			return
		}
	}
}

func (c *Consumer) fullWorkers() (full []*worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.workers {
		w.queue.mu.Lock()
		if !w.queue.paused && w.full() {
			full = append(full, w)
		}
		w.queue.mu.Unlock()
	}
	return full
}

func (w *worker) pauseIfFull() {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	if w.full() && !w.queue.paused {
		w.queue.paused = true
		w.client.PauseFetchPartitions(map[string][]int32{w.topic: {w.partition}})
	}
}
