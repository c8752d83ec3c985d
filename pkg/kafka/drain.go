package kafka

import (
	"context"
	"errors"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// drainBatch is how many followers of a key are handled in one transaction.
const drainBatch = 50

// drainLater notes that the heads' keys are free for their followers.
func (w *worker) drainLater(heads []*item) {
	for _, it := range heads {
		w.drains = append(w.drains, it.key)
	}
}

// drainAll handles the followers of the keys that became free. It returns false
// when the worker has to stop; a sweeper goes on with what is left.
func (w *worker) drainAll(ctx context.Context) bool {
	for _, k := range w.drains {
		if !w.drain(ctx, k, false) {
			return false
		}
	}
	w.drains = w.drains[:0]
	return true
}

// drain handles the events behind k in their order until none is left or one
// has to wait for its retry. With overdue it begins with a head whose retry
// record is late.
func (w *worker) drain(ctx context.Context, k inbox.Key, overdue bool) bool {
	d := &drainer{w: w, c: w.c, key: k, sub: w.c.numbers[k.Consumer], limit: 1, overdue: overdue}
	if d.sub == nil {
		w.c.log.ErrorContext(ctx, "events are parked for a consumer that this release does not have", "consumer", k.Consumer)
		return true
	}
	for races := 0; ; {
		if w.stopping(ctx) {
			return false
		}
		more, f := d.step(ctx)
		switch {
		case f == nil && !more:
			return true
		case f == nil:
			races, w.outage = 0, 0
		case f.class == classStopped:
			return false
		case f.class == classRace:
			races++
			if !w.pause(ctx, races) {
				return false
			}
		default:
			if !w.awaitDatabase(ctx, f.err) {
				return false
			}
		}
	}
}

// drainer is the draining of one key.
type drainer struct {
	w       *worker
	c       *Consumer
	key     inbox.Key
	sub     *Subscription
	limit   int
	overdue bool
	first   *item // the event tried last, with its prepared result
}

// errTaken says that somebody else drained the key meanwhile.
var errTaken = errors.New("parked events were taken by another drainer")

// step handles the next events and reports whether more may be left.
func (d *drainer) step(ctx context.Context) (bool, *fault) {
	limit := d.limit
	if d.sub.Prepare != nil {
		limit = 1 // Prepare has to see what the event before it did
	}
	state, events, found, err := inbox.Waiting(ctx, d.c.db.Pool, d.key, limit)
	if err != nil {
		return false, &fault{class: classify(ctx, err, phaseBegin, false), err: err}
	}
	if !found {
		return false, nil
	}
	claims, mine := d.claims(state, events)
	if !mine {
		return false, nil
	}
	if len(claims) > 0 {
		events = events[:1]
	}
	items := make([]*item, len(events))
	for i, e := range events {
		items[i] = d.c.fromParked(d.key, e, d.sub)
	}
	if d.first != nil && len(items) > 0 && d.first.claim == items[0].claim {
		items[0] = d.first
	}
	if f := d.prepare(ctx, items); f != nil {
		return d.failed(ctx, items, events, state, claims, f)
	}
	if f := d.handle(ctx, items, events, state, claims); f != nil {
		return d.failed(ctx, items, events, state, claims, f)
	}
	d.limit = min(2*d.limit, drainBatch)
	d.count(items)
	return true, nil
}

// claims returns what the head still has to claim; followers were claimed when
// they were parked. mine is false when a head waits that is none of our business.
func (d *drainer) claims(state inbox.Parked, events []inbox.Event) (claims []inbox.Claim, mine bool) {
	if isDraining(state) {
		return nil, true
	}
	if !d.overdue || len(events) == 0 || events[0].ID != state.Head || events[0].Attempt != state.Attempt {
		return nil, false
	}
	return []inbox.Claim{{Consumer: d.key.Consumer, Event: state.Head, Attempt: state.Attempt}}, true
}

func isDraining(p inbox.Parked) bool { return p == inbox.Parked{} }

func (d *drainer) prepare(ctx context.Context, items []*item) *fault {
	if d.sub.Prepare == nil || len(items) == 0 || items[0].isPrepared && items[0].prepareErr == nil {
		return nil
	}
	it := items[0]
	d.first = it
	if !it.isPrepared {
		if !d.c.prepares.take(ctx) {
			return &fault{index: -1, class: classStopped, err: ctx.Err()}
		}
		d.c.callPrepare(ctx, it)
		d.c.prepares.give()
	}
	if ctx.Err() != nil {
		return &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	if it.prepareErr != nil {
		return &fault{index: 0, class: classify(ctx, it.prepareErr, phasePrepare, false), err: it.prepareErr}
	}
	return nil
}

// begin locks the key and makes sure that nothing changed since it was read.
func (d *drainer) begin(ctx context.Context, state inbox.Parked, claims []inbox.Claim) (*outbox.Session, *fault) {
	s, now, err := inbox.Begin(ctx, d.c.db, claims, []inbox.Key{d.key})
	if err != nil {
		return nil, &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
	}
	if p, ok := now.Parked[d.key]; !ok || p != state || len(now.Won) != len(claims) {
		s.Rollback()
		return nil, &fault{index: -1, class: classRace, err: errTaken}
	}
	return s, nil
}

// handle runs the handlers of events in one transaction that also deletes them.
func (d *drainer) handle(ctx context.Context, items []*item, events []inbox.Event, state inbox.Parked, claims []inbox.Claim) *fault {
	if !d.c.slots.take(ctx) {
		return &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	defer d.c.slots.give()
	s, f := d.begin(ctx, state, claims)
	if f != nil {
		return f
	}
	defer s.Rollback()
	if f := d.takeEvents(ctx, s, events); f != nil {
		return f
	}
	for i, it := range items {
		s.Own(i)
		if err := d.c.apply(ctx, s.Tx(), it); err != nil {
			return &fault{index: culprit(err, i), class: classify(ctx, err, phaseApply, s.Broken()), err: err}
		}
		if err := s.Err(); err != nil {
			return &fault{index: i, class: classPermanent, err: err}
		}
		it.result = resultProcessed
		if it.redrives() > 0 {
			deadletter.Resolve(s.Tx(), it.consumer(), it.event.ID)
		}
	}
	s.Own(outbox.NoOwner)
	inbox.Release(s.Tx(), d.key)
	return commit(ctx, s)
}

func (d *drainer) takeEvents(ctx context.Context, s *outbox.Session, events []inbox.Event) *fault {
	if len(events) == 0 {
		return nil
	}
	all, err := inbox.Take(ctx, s.Tx(), d.key, events)
	if err != nil {
		return &fault{index: -1, class: classify(ctx, err, phaseBegin, s.Broken()), err: err}
	}
	if !all {
		return &fault{index: -1, class: classRace, err: errTaken}
	}
	return nil
}

// failed decides after a fault: events are tried one by one, and one that fails
// alone is recorded.
func (d *drainer) failed(ctx context.Context, items []*item, events []inbox.Event, state inbox.Parked, claims []inbox.Claim, f *fault) (bool, *fault) {
	switch {
	case f.class == classStopped, f.class == classRace, f.class == classInfrastructure:
		return false, f
	case len(items) > 1:
		d.limit = 1
		return true, nil
	case len(items) == 0:
		return false, f
	}
	d.limit, d.first = 1, items[0]
	more, f := d.record(ctx, items[0], events, state, claims, failure{f.err, f.class, d.c.now()})
	if f == nil || f.class == classInfrastructure {
		d.first = nil // not recorded: the attempt is made again, see settle
	}
	return more, f
}

// record writes what becomes of an event that failed: the new head of its key,
// or a dead letter, after which the next follower's turn comes.
func (d *drainer) record(ctx context.Context, it *item, events []inbox.Event, state inbox.Parked, claims []inbox.Claim, f failure) (more bool, _ *fault) {
	if it.firstFailed.IsZero() {
		it.firstFailed = f.at
	}
	f = d.c.checkSize(it, f)
	if !d.c.slots.take(ctx) {
		return false, &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	defer d.c.slots.give()
	s, fault := d.begin(ctx, state, claims)
	if fault != nil {
		return false, fault
	}
	defer s.Rollback()
	if f.class == classTransient && it.level() < Retries {
		rec, next, due := d.c.retryRecord(it, f)
		inbox.Repark(s.Tx(), d.key, next, due)
		s.Tx().AddRecord(rec)
		it.result = resultRetried
	} else {
		if fault := d.takeEvents(ctx, s, events); fault != nil {
			return false, fault
		}
		d.c.bury(s.Tx(), it, f)
		inbox.Release(s.Tx(), d.key)
	}
	if fault := commit(ctx, s); fault != nil {
		return false, fault
	}
	d.c.report(ctx, it, f)
	d.count([]*item{it})
	return it.result == resultDead, nil
}

func (d *drainer) count(items []*item) {
	t := tally{}
	for _, it := range items {
		t.add(d.sub.Topic, it.result)
	}
	if len(t) > 0 {
		d.c.m.count(t)
	}
}
