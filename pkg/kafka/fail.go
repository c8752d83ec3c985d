package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// fail records that an attempt at it failed, in one transaction with what comes
// of it: a retry, a place behind its key, or a dead letter.
func (w *worker) fail(ctx context.Context, it *item, f failure) *fault {
	c := w.c
	if it.firstFailed.IsZero() {
		it.firstFailed = f.at
	}
	f = c.checkSize(it, f)
	if !c.slots.take(ctx) {
		return &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	defer c.slots.give()
	var keys []inbox.Key
	if it.keyed {
		keys = []inbox.Key{it.key}
	}
	s, state, err := inbox.Begin(ctx, c.db, []inbox.Claim{it.claim}, keys)
	if err != nil {
		return &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
	}
	defer s.Rollback()
	if _, won := state.Won[it.claim]; !won {
		it.result = resultDuplicate
		return c.commit(ctx, s, "failure")
	}
	parked, isParked := state.Parked[it.key]
	isHead := it.keyed && isParked && parked.Head == it.event.ID
	switch {
	case it.keyed && isParked && !isHead && it.refused == nil:
		// Somebody parked the key since; the attempt did not count.
		inbox.Follow(s.Tx(), it.key, it.parked())
		it.result = resultParked
	case f.class == classTransient && it.level() < Retries:
		err = w.retry(ctx, s.Tx(), it, f, isHead)
	default:
		c.bury(s.Tx(), it, f)
		if isHead {
			inbox.Finish(s.Tx(), it.key, it.event.ID)
		}
	}
	if err != nil {
		return &fault{index: -1, class: classify(ctx, err, phaseCommit, s.Broken()), err: err}
	}
	if fault := c.commit(ctx, s, "failure"); fault != nil {
		return fault
	}
	c.report(ctx, it, f)
	if isHead && it.result == resultDead {
		w.drains = append(w.drains, it.key)
	}
	return nil
}

// errLostKey says that another transaction changed the key at the same time.
var errLostKey = &classified{class: classRace, err: errors.New("another event of the key was parked at the same time")}

// retry emits the item to its next retry topic and keeps its key waiting.
func (w *worker) retry(ctx context.Context, tx *outbox.Tx, it *item, f failure, isHead bool) error {
	rec, next, due := w.c.retryRecord(it, f)
	if it.keyed {
		keep := inbox.Park
		if isHead {
			keep = inbox.Repark
		}
		ok, err := keep(ctx, tx, it.key, next, due)
		if err != nil {
			return err
		}
		if !ok {
			return errLostKey // run again, with what is there now
		}
	}
	tx.AddRecord(rec)
	it.result = resultRetried
	return nil
}

// retryRecord returns the record of the item's next attempt, the same as it is
// kept behind its key, and when it is due.
func (c *Consumer) retryRecord(it *item, f failure) (outbox.Record, inbox.Event, time.Time) {
	level := it.level() + 1
	due := f.at.Add(c.cc.RetryDelays[level-1])
	next := it.parked()
	next.Attempt++
	next.Headers = append(c.failureHeaders(it, f),
		text(inbox.HeaderRetryCount, strconv.Itoa(level)), text(inbox.HeaderRetryDue, stamp(due)))
	return outbox.Record{
		EventID: it.event.ID, Topic: RetryTopic(c.cc.Group, level),
		Key: it.rawKey, Value: it.value, Headers: next.Headers,
	}, next, due
}

// bury makes a dead letter of the item: the row and the record for those who
// watch the topic.
func (c *Consumer) bury(tx *outbox.Tx, it *item, f failure) {
	id := deadletter.IDFor(it.consumer(), it.event.ID)
	headers := append(c.failureHeaders(it, f),
		text(inbox.HeaderRetryCount, strconv.Itoa(it.level())),
		text(inbox.HeaderLetterID, id.String()),
		text(inbox.HeaderDeadAt, stamp(f.at)))
	tries := 1 + it.level()
	if it.redrives() > 0 {
		tries = it.level() // a redrive begins with the first retry
	}
	deadletter.Add(tx, deadletter.Letter{
		ID: id, Consumer: it.consumer(), EventID: it.event.ID, Type: it.event.Type,
		Topic: it.origin.topic, Partition: it.origin.partition, Offset: it.origin.offset,
		Key: it.rawKey, Value: it.value, Headers: headers,
		ErrorClass: f.class.String(), Error: f.err.Error(), Attempts: tries, Redrives: it.redrives(),
		FirstFailedAt: it.firstFailed,
	})
	// A record that even the dead-letter topic cannot take is in the table only.
	if size(it.rawKey, it.value, headers) <= outbox.MaxRecordBytes {
		tx.AddRecord(outbox.Record{EventID: it.event.ID, Topic: c.cc.DLQ, Key: it.rawKey, Value: it.value, Headers: headers})
	}
	it.result = resultDead
}

func size(key, value []byte, headers []kgo.RecordHeader) int {
	n := len(key) + len(value)
	for _, h := range headers {
		n += len(h.Key) + len(h.Value) + 10
	}
	return n
}

// report tells of a failure once it is recorded.
func (c *Consumer) report(ctx context.Context, it *item, f failure) {
	attrs := []any{
		"topic", it.origin.topic, "partition", it.origin.partition, "offset", it.origin.offset,
		"event_id", it.event.ID.String(), "key", ascii(string(it.rawKey), 64), "attempt", it.level() + 1,
		"error_class", f.class.String(), "error", f.err.Error(),
	}
	if p, ok := errors.AsType[*panicError](f.err); ok {
		attrs = append(attrs, "stack", string(p.stack))
	}
	switch it.result {
	case resultRetried:
		c.m.retries.WithLabelValues(it.origin.topic, strconv.Itoa(it.level()+1)).Inc()
		c.log.WarnContext(ctx, "event failed, will be retried", append(attrs, "delay", c.cc.RetryDelays[it.level()].String())...)
	case resultDead:
		c.m.dead.WithLabelValues(it.origin.topic, f.class.String()).Inc()
		c.log.ErrorContext(ctx, "event is a dead letter", append(attrs, "dlq", c.cc.DLQ)...)
	}
}

// state returns the SQLSTATE of err, or "".
func state(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// checkSize turns a retry that no topic can take into a dead letter.
func (c *Consumer) checkSize(it *item, f failure) failure {
	if f.class != classTransient || it.level() == Retries {
		return f
	}
	// What a failure adds is bounded; the rest of the room is for the outbox.
	if n := size(it.rawKey, it.value, it.headers) + maxMessage + maxType + 2<<10; n > outbox.MaxRecordBytes {
		return failure{at: f.at, class: classOversize, err: fmt.Errorf("too large for a retry, %d bytes: %w", n, f.err)}
	}
	return f
}
