package kafka

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Results of an item.
const (
	resultProcessed = "processed"
	resultDuplicate = "duplicate"
	resultParked    = "parked"
	resultRetried   = "retried"
	resultDead      = "dead"
)

// try runs items in one transaction, all or nothing. Without a fault every item
// has its result and the transaction is committed.
func (w *worker) try(ctx context.Context, items []*item) *fault {
	run := w.c.runGrouped
	if w.limit < w.c.cc.BatchRecords || w.races > 0 || len(items) > groupBatch {
		run = w.c.run // what failed lately is not to disturb others, and what is large needs none
	} else if sub := items[0].sub; sub.Prepare != nil && sub.Linger == 0 {
		own := w.c.rounds.enter(ctx)
		defer w.c.rounds.leave(own)
	}
	if f := w.prepare(ctx, items); f != nil {
		return f
	}
	if f := run(ctx, items); f != nil {
		return f
	}
	for _, it := range items {
		if it.frees {
			w.drains = append(w.drains, it.key)
		}
	}
	return nil
}

// run is the transaction of items, which are prepared.
func (c *Consumer) run(ctx context.Context, items []*item) *fault {
	claims, keys, first := claimsOf(items)
	if !c.slots.take(ctx) {
		return &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	defer c.slots.give()

	// What is loaded comes in the round trip of the claims, and so before it is
	// known which of the events are new.
	s, state := inbox.Start(c.db, claims, keys)
	defer s.Rollback()
	if f := c.load(ctx, s, items); f != nil {
		return f
	}
	if err := s.Flush(ctx); err != nil {
		return &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
	}
	for i, it := range items {
		it.result, it.frees = "", false
		if _, won := state.Won[it.claim]; !won || first[it.claim] != i {
			it.result = resultDuplicate
			continue
		}
		s.Own(i)
		parked, isParked := state.Parked[it.key]
		isParked = isParked && it.keyed
		if isParked && parked.Head != it.event.ID {
			if c.isFull(it.key) {
				return &fault{index: i, class: classRace, err: errFull}
			}
			inbox.Follow(s.Tx(), it.key, it.parked())
			it.result = resultParked
			continue
		}
		if it.sub.Prepare != nil && !it.isPrepared {
			return &fault{index: i, class: classRace, err: errPrepareAgain}
		}
		it.frees = isParked
	}
	if f := c.handle(ctx, s, items); f != nil {
		return f
	}
	// After all followers of this batch: a key with one is not free.
	for _, it := range items {
		if it.frees {
			inbox.Finish(s.Tx(), it.key, it.event.ID)
		}
	}
	return c.commit(ctx, s, "batch")
}

// handle runs the handlers of the items that have no result yet.
func (c *Consumer) handle(ctx context.Context, s *outbox.Session, items []*item) *fault {
	for i, it := range items {
		if it.result != "" {
			continue
		}
		s.Own(i)
		if err := c.apply(ctx, s.Tx(), it); err != nil {
			return &fault{index: culprit(err, i), class: classify(ctx, err, phaseApply, s.Broken()), err: err}
		}
		if err := s.Err(); err != nil {
			return &fault{index: i, class: classPermanent, err: err} // an event that cannot be published
		}
		it.result = resultProcessed
		if it.redrives() > 0 {
			deadletter.Resolve(s.Tx(), it.consumer(), it.event.ID)
		}
	}
	s.Own(outbox.NoOwner)
	return nil
}

// load calls the Load of each subscription with its events.
func (c *Consumer) load(ctx context.Context, s *outbox.Session, items []*item) *fault {
	var subs []*Subscription
	events := map[*Subscription][]event.Event{}
	for _, it := range items {
		if it.sub.Load == nil {
			continue
		}
		if events[it.sub] == nil {
			subs = append(subs, it.sub)
		}
		events[it.sub] = append(events[it.sub], it.event)
	}
	for _, sub := range subs {
		if err := c.loadOf(ctx, s.Tx(), sub, events[sub]); err != nil {
			if errors.Is(err, outbox.ErrNotBegun) { // says nothing about the events
				return &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
			}
			return &fault{index: culprit(err, -1), class: classify(ctx, err, phaseApply, s.Broken()), err: err}
		}
	}
	return nil
}

func (c *Consumer) loadOf(ctx context.Context, tx *outbox.Tx, sub *Subscription, events []event.Event) (err error) {
	started := time.Now()
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
		c.m.handler.WithLabelValues(sub.Topic, "load").Observe(time.Since(started).Seconds())
	}()
	if err := sub.Load(ctx, tx, events); err != nil {
		return fmt.Errorf("load for %d of %s: %w", len(events), sub.Topic, err)
	}
	return nil
}

// errFull makes a batch wait until its key has room for another follower.
var errFull = errors.New("too many events wait behind the key")

func (c *Consumer) commit(ctx context.Context, s *outbox.Session, what string) *fault {
	c.at("before commit", what)
	err := s.Commit(ctx)
	c.at("after commit", what)
	if err == nil {
		return nil
	}
	return &fault{index: culprit(err, -1), class: classify(ctx, err, phaseCommit, s.Broken()), err: err}
}

// culprit returns whose queued statement or event failed, or otherwise.
func culprit(err error, otherwise int) int {
	if st, ok := errors.AsType[*outbox.StatementError](err); ok {
		return st.Owner
	}
	if re, ok := errors.AsType[*outbox.RecordError](err); ok {
		return re.Owner
	}
	if state(err) == "25P02" {
		return -1 // a handler before this one hid the error of a statement
	}
	return otherwise
}

// claimsOf returns what a batch claims and locks; first tells which occurrence
// of a claim in the batch counts.
func claimsOf(items []*item) (claims []inbox.Claim, keys []inbox.Key, first map[inbox.Claim]int) {
	claims = make([]inbox.Claim, 0, len(items))
	keys = make([]inbox.Key, 0, len(items))
	first = make(map[inbox.Claim]int, len(items))
	seen := make(map[inbox.Key]struct{}, len(items))
	for i, it := range items {
		if _, known := first[it.claim]; known {
			continue
		}
		first[it.claim] = i
		claims = append(claims, it.claim)
		if !it.keyed {
			continue
		}
		if _, known := seen[it.key]; !known {
			seen[it.key] = struct{}{}
			keys = append(keys, it.key)
		}
	}
	return claims, keys, first
}

// apply runs a handler's Apply in the batch's transaction.
func (c *Consumer) apply(ctx context.Context, tx *outbox.Tx, it *item) (err error) {
	ctx, end := c.span(ctx, it, "process")
	started := time.Now()
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
		c.m.handler.WithLabelValues(it.sub.Topic, "apply").Observe(time.Since(started).Seconds())
		end(err)
	}()
	if err := it.sub.Apply(ctx, tx, it.event, it.prepared); err != nil {
		return fmt.Errorf("handle %s: %w", it.event.Type, err)
	}
	return nil
}
