package kafka

import (
	"context"
	"errors"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// drainBatch is how many followers of a key are handled in one transaction.
const drainBatch = 50

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

// turn is what a drainer handles next, as it was read without a lock.
type turn struct {
	state  inbox.Parked
	events []inbox.Event
	items  []*item // of the events
	// claims is what the head still has to claim; followers were claimed when
	// they were parked.
	claims []inbox.Claim
}

// step handles the next events and reports whether more may be left.
func (d *drainer) step(ctx context.Context) (bool, *fault) {
	t, f := d.next(ctx)
	if t == nil || f != nil {
		return false, f
	}
	if f = d.prepare(ctx, t.items); f == nil {
		f = d.handle(ctx, t)
	}
	if f != nil {
		return d.failed(ctx, t, f)
	}
	d.limit = min(2*d.limit, drainBatch)
	d.count(t.items)
	return true, nil
}

// next reads the next turn, nil when there is none or when a head waits that is
// none of our business.
func (d *drainer) next(ctx context.Context) (*turn, *fault) {
	limit := d.limit
	if d.sub.Prepare != nil {
		limit = 1 // Prepare has to see what the event before it did
	}
	state, events, found, err := inbox.Waiting(ctx, d.c.db.Pool, d.key, limit)
	if err != nil {
		return nil, &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
	}
	if !found {
		return nil, nil
	}
	t := &turn{state: state, events: events}
	if draining := state == (inbox.Parked{}); !draining {
		if !d.overdue || len(events) == 0 || events[0].ID != state.Head || events[0].Attempt != state.Attempt {
			return nil, nil
		}
		t.claims = []inbox.Claim{{Consumer: d.key.Consumer, Event: state.Head, Attempt: state.Attempt}}
		t.events = events[:1]
	}
	for _, e := range t.events {
		t.items = append(t.items, d.c.fromParked(d.key, e, d.sub))
	}
	if d.first != nil && len(t.items) > 0 && d.first.claim == t.items[0].claim {
		t.items[0] = d.first
	}
	return t, nil
}

func (d *drainer) prepare(ctx context.Context, items []*item) *fault {
	if d.sub.Prepare == nil || len(items) == 0 {
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

// begin locks the key and makes sure that its state is the one that was read.
// Whether the events are still there shows when they are taken or parked again.
func (d *drainer) begin(ctx context.Context, t *turn) (*outbox.Session, *fault) {
	s, now, err := inbox.Begin(ctx, d.c.db, t.claims, []inbox.Key{d.key})
	if err != nil {
		return nil, &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
	}
	if p, ok := now.Parked[d.key]; !ok || p != t.state || len(now.Won) != len(t.claims) {
		s.Rollback()
		return nil, taken()
	}
	return s, nil
}

// taken is the fault of a drainer that came second.
func taken() *fault { return &fault{index: -1, class: classRace, err: errTaken} }

// handle runs the handlers of the turn in one transaction that also deletes the
// events.
func (d *drainer) handle(ctx context.Context, t *turn) *fault {
	if !d.c.slots.take(ctx) {
		return &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	defer d.c.slots.give()
	s, f := d.begin(ctx, t)
	if f != nil {
		return f
	}
	defer s.Rollback()
	if f := d.take(ctx, s, t.events); f != nil {
		return f
	}
	for _, it := range t.items {
		it.result = "" // of the attempt before
	}
	if f := d.c.load(ctx, s, t.items); f != nil {
		return f
	}
	if f := d.c.handle(ctx, s, t.items); f != nil {
		return f
	}
	inbox.Release(s.Tx(), d.key)
	return d.c.commit(ctx, s, "drain")
}

func (d *drainer) take(ctx context.Context, s *outbox.Session, events []inbox.Event) *fault {
	if len(events) == 0 {
		return nil
	}
	all, err := inbox.Take(ctx, s.Tx(), d.key, events)
	if err != nil {
		return &fault{index: -1, class: classify(ctx, err, phaseBegin, s.Broken()), err: err}
	}
	if !all {
		return taken()
	}
	return nil
}

// failed decides after a fault: events are tried one by one, and one that fails
// alone is recorded.
func (d *drainer) failed(ctx context.Context, t *turn, f *fault) (bool, *fault) {
	switch {
	case f.class == classStopped, f.class == classRace, f.class == classInfrastructure:
		return false, f
	case len(t.items) > 1:
		d.limit = 1
		return true, nil
	case len(t.items) == 0:
		return false, f
	}
	d.limit, d.first = 1, t.items[0]
	more, f := d.record(ctx, t, failure{f.err, f.class, d.c.now()})
	if f == nil || f.class == classInfrastructure {
		d.first = nil // not recorded: the attempt is made again, see settle
	}
	return more, f
}

// record writes what becomes of the one event of the turn, which failed: the new
// head of its key, or a dead letter, after which the next follower's turn comes.
func (d *drainer) record(ctx context.Context, t *turn, f failure) (bool, *fault) {
	it := t.items[0]
	if it.firstFailed.IsZero() {
		it.firstFailed = f.at
	}
	f = d.c.checkSize(it, f)
	if !d.c.slots.take(ctx) {
		return false, &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	defer d.c.slots.give()
	s, stop := d.begin(ctx, t)
	if stop != nil {
		return false, stop
	}
	defer s.Rollback()
	if f.class == classTransient && it.level() < Retries {
		rec, next, due := d.c.retryRecord(it, f)
		there, err := inbox.Repark(ctx, s.Tx(), d.key, next, due)
		if err != nil {
			return false, &fault{index: -1, class: classify(ctx, err, phaseBegin, s.Broken()), err: err}
		}
		if !there {
			return false, taken()
		}
		s.Tx().AddRecord(rec)
		it.result = resultRetried
	} else {
		if stop := d.take(ctx, s, t.events); stop != nil {
			return false, stop
		}
		d.c.bury(s.Tx(), it, f)
		inbox.Release(s.Tx(), d.key)
	}
	if stop := d.c.commit(ctx, s, "failure"); stop != nil {
		return false, stop
	}
	d.c.report(ctx, it, f)
	d.count(t.items)
	return it.result == resultDead, nil
}

func (d *drainer) count(items []*item) {
	t := tally{}
	for _, it := range items {
		t.add(d.sub.Topic, it.result)
	}
	d.c.m.count(t)
}
