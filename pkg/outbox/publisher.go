package outbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// publisher is a leader at work. It runs on one goroutine; only the outcomes of
// records arrive from others, through batch.
type publisher struct {
	*Relay
	term *lease
	rd   reader

	stored cursor    // what the database knows
	ahead  cursor    // the same once everything in flight is acknowledged
	flight []*batch  // in order of reading
	done   []*batch  // before those in flight: acknowledged, and not stored yet
	doneAt time.Time // when the first of them was

	signal    chan struct{} // an outcome of a batch is known
	published atomic.Int64  // below it nothing is needed any more

	producing context.Context // ends when what is in flight is to be given up
	abort     context.CancelFunc

	failed    bool      // a batch failed: let the others settle, then start again
	fails     int       // in a row
	notBefore time.Time // do not read earlier: after a failure
	pacer     pacer
	warned    time.Time

	// Kept from a failed round, for the next one: records that Kafka has
	// already, and records to be tried alone because it may never take them.
	acked    map[int64]struct{}
	suspects map[int64]struct{}
}

func newPublisher(r *Relay, term *lease, at cursor) *publisher {
	p := &publisher{
		Relay: r, term: term, stored: at,
		rd:     reader{conn: term.conn, sql: r.sql.read, limit: r.cfg.Batch, max: r.cfg.Batch, bytes: r.cfg.BatchSize, topics: map[string]string{}},
		signal: make(chan struct{}, 1),
		pacer:  pacer{pace: r.cfg.Pace, batchPace: r.cfg.BatchPace},
		acked:  map[int64]struct{}{}, suspects: map[int64]struct{}{},
	}
	p.published.Store(at.published())
	p.restart()
	return p
}

// restart forgets what was read and not stored.
func (p *publisher) restart() {
	if p.abort != nil {
		p.abort()
	}
	// Not derived from the relay's context: a shutdown waits for outcomes.
	p.producing, p.abort = context.WithCancel(context.Background())
	p.flight, p.done, p.failed = nil, nil, false
	p.ahead = cursor{p.stored.pos, slices.Clone(p.stored.gaps)}
}

// run publishes until ctx ends (nil), leadership is lost (errDeposed) or the
// connection breaks.
func (p *publisher) run(ctx context.Context) error {
	singles, stop := p.subscribe(singleKey)
	defer stop()
	batches, stopBatches := p.subscribe(batchKey)
	defer stopBatches()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var (
		due     = true // to read
		poll    = p.cfg.PollMin
		pollAt  time.Time
		statsAt time.Time
		drainBy time.Time
		done    = ctx.Done()
	)
	for {
		if err := p.reap(ctx); err != nil {
			return err
		}
		now := time.Now()
		if ctx.Err() != nil {
			if drainBy.IsZero() {
				drainBy, done = now.Add(p.cfg.Drain), nil
			}
			if len(p.flight) == 0 || p.failed || now.After(drainBy) {
				return p.store(ctx)
			}
		}
		switch {
		case !p.term.holds():
			return fmt.Errorf("%w: the lease ran out", errDeposed)
		case now.After(p.term.due()):
			if err := p.term.renew(ctx); err != nil {
				return err
			}
			continue
		case now.After(statsAt):
			if err := p.observe(ctx); err != nil {
				return err
			}
			statsAt = now.Add(5 * time.Second)
		}
		mayRead := drainBy.IsZero() && !p.failed && len(p.flight) < p.cfg.InFlight && !now.Before(p.earliest())
		if mayRead && (due || !now.Before(pollAt)) {
			if rung(singles) { // for what is read now
				p.pacer.single()
			}
			if rung(batches) {
				p.pacer.batch()
			}
			more, any, err := p.next(ctx)
			if err != nil {
				return err
			}
			poll = p.nextPoll(poll, any)
			due, pollAt = more, now.Add(poll)
			if more {
				continue
			}
			if any {
				p.pacer.found(now)
			}
		}
		timer.Reset(p.sleep(mayRead, now, pollAt, statsAt, drainBy))
		select {
		case <-done:
		case <-p.signal:
		case <-singles:
			due = true
			p.pacer.single()
		case <-batches:
			due = true
			p.pacer.batch()
		case <-timer.C:
		}
	}
}

func rung(key <-chan struct{}) bool {
	select {
	case <-key:
		return true
	default:
		return false
	}
}

// earliest is when the next read may be.
func (p *publisher) earliest() time.Time {
	if paced := p.pacer.next(); paced.After(p.notBefore) {
		return paced
	}
	return p.notBefore
}

// nextPoll is when to look again unless somebody rings. After activity that is
// soon, and then ever later: a gap may be left by a rollback, which nobody tells
// of. Where everyone who commits rings and no gap is open, there is nothing to
// look for, and the poll is only the net under a lost ring.
func (p *publisher) nextPoll(last time.Duration, found bool) time.Duration {
	switch {
	case !found:
		return min(2*last, p.cfg.PollMax)
	case p.db.bell != nil && len(p.ahead.gaps) == 0:
		return p.cfg.PollMax
	default:
		return p.cfg.PollMin
	}
}

// sleep is how long nothing has to be done unless something happens.
func (p *publisher) sleep(mayRead bool, now, pollAt, statsAt, drainBy time.Time) time.Duration {
	next := p.term.due()
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	earlier(statsAt)
	switch {
	case !drainBy.IsZero():
		earlier(drainBy)
	case mayRead:
		earlier(pollAt)
	case p.earliest().After(now):
		earlier(p.earliest())
	}
	if len(p.done) > 0 {
		earlier(p.doneAt.Add(storeAfter))
	}
	return max(time.Until(next), 0) + time.Millisecond/2
}

// next reads one page and sends it. more says that there is more to read now,
// any that something was found.
func (p *publisher) next(ctx context.Context) (more, any bool, err error) {
	limited, cancel := p.term.limit(ctx)
	defer cancel()
	found, err := p.rd.read(limited, p.ahead)
	if err != nil {
		return false, false, err
	}
	alone := false
	for i, row := range found.rows {
		if _, suspect := p.suspects[row.seq]; suspect {
			if i == 0 && len(p.flight) > 0 {
				return false, true, nil // comes back when the others are done
			}
			alone = i == 0
			found.rows, found.cut, found.more = found.rows[:max(i, 1)], true, true
			break
		}
	}
	seqs := make([]int64, len(found.rows))
	for i, row := range found.rows {
		seqs[i] = row.seq
	}
	after, n := p.step(p.ahead, seqs, found.xmin, found.cut, p.cfg.MaxGaps)
	if n < len(seqs) {
		found.more = false
		if time.Since(p.warned) > time.Minute {
			p.warned = time.Now()
			p.log.WarnContext(ctx, "outbox waits for a long transaction: too many gaps are open behind it",
				"gaps", len(after.gaps), "oldest_running_xid", found.xmin)
		}
	}
	if n == 0 && slices.Equal(after.gaps, p.ahead.gaps) {
		return false, false, nil
	}
	if !p.term.holds() {
		return false, false, fmt.Errorf("%w: the lease ran out", errDeposed)
	}
	p.at("before produce")
	sent := p.send(found.rows[:n], after, alone)
	sent.full = found.more
	p.flight = append(p.flight, sent)
	p.ahead = after
	return found.more, true, nil
}

// storeAfter is how long an acknowledged batch may wait for others before the
// position is stored: so much more is published again after a crash. A store is a
// transaction, which costs about as much as publishing a few rows. Of a backlog
// every batch is stored, to keep memory bounded.
const storeAfter = 100 * time.Millisecond

// reap stores what is acknowledged, soon, and starts again after a failure.
func (p *publisher) reap(ctx context.Context) error {
	n := 0
	for n < len(p.flight) && p.flight[n].succeeded() {
		n++
	}
	if n > 0 {
		if len(p.done) == 0 {
			p.doneAt = time.Now()
		}
		p.done = append(p.done, p.flight[:n]...)
		p.flight = p.flight[n:]
		p.fails = 0
	}
	failing := !p.failed && slices.ContainsFunc(p.flight, (*batch).failing)
	full := func(b *batch) bool { return b.full }
	if failing || p.failed || time.Since(p.doneAt) >= storeAfter || slices.ContainsFunc(p.done, full) {
		if err := p.store(ctx); err != nil {
			return err
		}
	}
	if failing {
		// Nothing more goes out before all is settled: what has been sent
		// cannot be taken back, and what follows must not pass what failed.
		p.failed = true
		p.abort()
	}
	if !p.failed || slices.ContainsFunc(p.flight, func(b *batch) bool { return b.left.Load() > 0 }) {
		return nil
	}
	return p.recover(ctx)
}

// recover starts again from the stored cursor, once nothing is in flight.
func (p *publisher) recover(ctx context.Context) error {
	p.m.failures.Inc()
	first := p.flight[0]
	if first.alone && unsendable(first.errs[0]) {
		// It was the only record on its way, so the verdict is about it.
		first.dead = append(first.dead, deadRow{first.rows[0], first.errs[0].Error()})
		p.done, p.flight = append(p.done, first), p.flight[1:]
		if err := p.store(ctx); err != nil {
			return err
		}
	}
	var cause error
	var remade []string
	for _, b := range p.flight {
		for i, row := range b.rows {
			switch err := b.errs[i]; {
			case err == nil:
				p.acked[row.seq] = struct{}{}
			case unsendable(err):
				p.suspects[row.seq] = struct{}{}
			case errors.Is(err, context.Canceled):
			default:
				cause = cmpErr(cause, err)
				if errors.Is(err, kerr.UnknownTopicID) && !slices.Contains(remade, row.topic) {
					remade = append(remade, row.topic)
				}
			}
		}
	}
	// The client refuses a topic that was deleted and made again until it is told
	// to forget the old one. Nothing of it is under way here.
	p.cl.PurgeTopicsFromProducing(remade...)
	if cause != nil {
		wait := min(100*time.Millisecond<<min(p.fails, 6), 5*time.Second)
		p.notBefore = time.Now().Add(wait)
		p.fails++
		p.log.WarnContext(ctx, "outbox records refused, trying again", "error", cause.Error(), "wait", wait.String(), "pos", p.stored.pos)
	}
	p.restart()
	return nil
}

// store advances the cursor over batches that are done.
func (p *publisher) store(ctx context.Context) error {
	done := p.done
	if len(done) == 0 {
		return nil
	}
	var seqs []int64
	var reasons []string
	for _, b := range done {
		for _, d := range b.dead {
			seqs, reasons = append(seqs, d.seq), append(reasons, d.reason)
		}
	}
	if len(seqs) > 0 {
		if err := p.term.bury(ctx, seqs, reasons); err != nil {
			return err
		}
	}
	p.at("before cursor")
	after := done[len(done)-1].after
	bound, err := p.term.advance(ctx, p.sql.advance, after)
	if err != nil {
		return err
	}
	p.at("after cursor")
	after.bind(after.pos, bound)
	p.ahead.bind(after.pos, bound)
	for _, b := range p.flight {
		b.after.bind(after.pos, bound)
	}
	p.stored, p.done = after, nil
	p.published.Store(after.published())
	p.m.gaps.Set(float64(len(after.gaps)))
	for _, b := range done {
		p.account(ctx, b)
	}
	return nil
}

func (p *publisher) account(ctx context.Context, b *batch) {
	for _, d := range b.dead {
		delete(p.suspects, d.seq)
		p.m.dead.WithLabelValues(d.topic).Inc()
		p.log.ErrorContext(ctx, "outbox record moved to msg.outbox_dead: kafka can never accept it",
			"seq", d.seq, "topic", d.topic, "error", d.reason)
	}
	if len(b.rows) == 0 {
		return
	}
	p.m.delay.Observe(max(0, time.Since(b.rows[0].created).Seconds()))
	// Rows of one topic tend to come in runs; a lookup per run is enough.
	run := 0
	for i := range b.rows {
		if i+1 == len(b.rows) || b.rows[i+1].topic != b.rows[i].topic {
			p.m.published.WithLabelValues(b.rows[i].topic).Add(float64(i + 1 - run))
			run = i + 1
		}
	}
}

const sqlBacklog = `
	select greatest(coalesce((select max(seq) from msg.outbox), 0) - $1, 0),
	       coalesce((select extract(epoch from clock_timestamp() - created_at)
	                 from msg.outbox where seq > $1 order by seq limit 1), 0)::float8`

// observe measures the backlog and, while nothing is acknowledged, says so.
func (p *publisher) observe(ctx context.Context) error {
	limited, cancel := p.term.limit(ctx)
	defer cancel()
	var backlog int64
	var lag float64
	if err := p.term.conn.QueryRow(limited, sqlBacklog, p.stored.pos).Scan(&backlog, &lag); err != nil {
		return fmt.Errorf("measure backlog: %w", err)
	}
	p.m.backlog.Set(float64(backlog))
	p.m.lag.Set(max(0, lag))
	if len(p.flight) > 0 && time.Since(p.flight[0].sent) > 5*time.Second && time.Since(p.warned) > 30*time.Second {
		p.warned = time.Now()
		p.log.WarnContext(ctx, "outbox waits for kafka: records are sent and not acknowledged",
			"since", time.Since(p.flight[0].sent).Round(time.Second).String(), "backlog", backlog)
	}
	return nil
}

// settle gives up what is in flight and waits for its outcomes, so that a next
// term of this process does not mix with this one. Outcomes that do not come,
// because Kafka is away, end with ctx.
func (p *publisher) settle(ctx context.Context) {
	p.abort()
	for slices.ContainsFunc(p.flight, func(b *batch) bool { return b.left.Load() > 0 }) {
		select {
		case <-ctx.Done():
			return
		case <-p.signal:
		}
	}
}
