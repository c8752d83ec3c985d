package outbox_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// slowTx is a transaction that the test commits or rolls back by hand.
type slowTx struct {
	t  testing.TB
	tx pgx.Tx
}

func (w *world) begin() *slowTx {
	w.t.Helper()
	conn, err := pgx.ConnectConfig(context.Background(), w.pool.Config().ConnConfig)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	tx, err := conn.Begin(context.Background())
	require.NoError(w.t, err)
	return &slowTx{w.t, tx}
}

// takeXid gives the transaction its id, as its first write does.
func (s *slowTx) takeXid() *slowTx {
	s.t.Helper()
	_, err := s.tx.Exec(context.Background(), `select pg_current_xact_id()`)
	require.NoError(s.t, err)
	return s
}

const insertRow = `insert into msg.outbox (event_id, topic, key, value, headers) values ($1, $2, $3, $4, $5)`

// insert writes a row, which takes the next seq.
func (s *slowTx) insert(e event.Event) *slowTx {
	s.t.Helper()
	_, err := s.tx.Exec(context.Background(), insertRow, e.ID, e.Type, []byte(e.Subject), e.Data, outbox.EncodeEvent(e))
	require.NoError(s.t, err)
	return s
}

func (s *slowTx) commit() {
	s.t.Helper()
	require.NoError(s.t, s.tx.Commit(context.Background()))
}

func (s *slowTx) rollback() {
	s.t.Helper()
	require.NoError(s.t, s.tx.Rollback(context.Background()))
}

func (w *world) gaps() (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `select cardinality(gaps) / 3 from msg.outbox_cursor`).Scan(&n))
	return n
}

func (w *world) pos() (n int64) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `select pos from msg.outbox_cursor`).Scan(&n))
	return n
}

// reaches waits until pos is published.
func (w *world) reaches(pos int64) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.pos() >= pos }, patience, 2*time.Millisecond)
}

// closes waits until no gap is left.
func (w *world) closes() {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.gaps() == 0 }, patience, 2*time.Millisecond)
}

func TestARowThatCommitsBehindOthersIsPublished(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*outbox.Relay)
		want   int
	}{
		"ours":  {outbox.Unbroken, 2},
		"naive": {outbox.Naive, 1}, // what others do: seq > last
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.relay(outbox.RelayConfig{})
			c.change(r)
			run(t, r.Run)
			first := w.begin().insert(newEvent("a"))
			w.emit("b")
			w.reaches(2)
			require.Len(t, w.published(), 1, "nobody waits for the slow transaction")
			first.commit()
			w.emit("c") // so that the naive relay had a reason to look again
			w.reaches(3)
			w.closes()
			require.Len(t, w.published(), c.want+1)
		})
	}
}

// Nobody rings for a rollback: an open gap keeps the relay looking.
func TestARollbackIsNoticedWithoutARing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.relay(outbox.RelayConfig{PollMin: time.Millisecond, PollMax: time.Hour}).Run)
	slow := w.begin().insert(newEvent("a"))
	w.emit("b")
	w.reaches(2)
	require.Equal(t, 1, w.gaps())
	slow.rollback()
	w.closes()
}

// The bound must be above the id of every transaction that can own the hole,
// also of one that began after everything that has ended.
func TestAGapStaysOpenForTransactionsThatBeganLate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*outbox.Relay)
		loses  bool
	}{
		"ours":          {outbox.Unbroken, false},
		"bound by xmax": {outbox.BoundByXmax, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Transaction ids are the whole server's: another test's commit at
			// the wrong moment would hide the defect. These transactions do not
			// ring, so the relay looks often.
			w := newWorldIn(t, pgtest.Own(t, nil).Pool, kafkatest.StartFake(t))
			r := w.relay(outbox.RelayConfig{PollMin: time.Millisecond, PollMax: time.Millisecond})
			c.change(r)
			run(t, r.Run)
			lost := 0
			for round := 1; round <= 30 && lost == 0; round++ {
				visible := w.begin().takeXid()
				other := w.begin().takeXid()
				owner := w.begin().takeXid().insert(newEvent("a"))
				visible.insert(newEvent("b")).commit()
				w.reaches(int64(2 * round))
				// xmin moves past the snapshot's end at that time, not past owner.
				other.rollback()
				w.pollsAgain()
				owner.commit()
				w.closes()
				lost = 2*round - len(w.published())
			}
			require.Equal(t, c.loses, lost > 0)
		})
	}
}

// pollsAgain waits until the relay has looked at its gaps since.
func (w *world) pollsAgain() {
	w.t.Helper()
	var since time.Time
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `select clock_timestamp()`).Scan(&since))
	require.Eventually(w.t, func() bool {
		var polled bool
		require.NoError(w.t, w.pool.QueryRow(context.Background(), `
			select exists (select from pg_stat_activity where datname = current_database()
			and application_name = 'outbox-relay' and query_start > $1 and state = 'idle')`, since).Scan(&polled))
		return polled
	}, patience, time.Millisecond)
}

// A leader that dies between storing its gaps and learning their bound must not
// leave gaps that the next one closes too early.
func TestAGapsBoundIsStoredWithIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*outbox.Relay)
		want   int
	}{
		"ours":           {outbox.Unbroken, 2},
		"bound later on": {outbox.BoundLater, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			leader := w.relay(outbox.RelayConfig{Lease: 400 * time.Millisecond})
			c.change(leader)
			var stored atomic.Bool
			dead := make(chan struct{})
			leader.At(func(point string) {
				if point == "after cursor" {
					stored.Store(true)
					<-dead // frozen for good, with its connection open
				}
			})
			// Its goroutine ends with the test: it was stopped, not killed.
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { _ = leader.Run(ctx); close(done) }()
			t.Cleanup(func() { close(dead); cancel(); <-done })

			owner := w.begin().insert(newEvent("a"))
			w.emit("b")
			require.Eventually(t, stored.Load, patience, time.Millisecond)
			frozen := w.epoch() // above 1 when the leader was too slow for its lease before

			next := w.relay(outbox.RelayConfig{Lease: 400 * time.Millisecond})
			c.change(next)
			run(t, next.Run)
			require.Eventually(t, func() bool { return w.epoch() > frozen }, patience, time.Millisecond)
			if c.want == 1 { // the shortcut closes the gap while its owner is at work
				require.Eventually(t, func() bool { return w.gaps() == 0 }, patience, time.Millisecond)
			} else {
				w.pollsAgain()
				w.pollsAgain()
			}
			owner.commit()
			w.closes()
			require.Len(t, w.published(), c.want)
		})
	}
}

func (w *world) epoch() (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(context.Background(), `select epoch from msg.outbox_cursor`).Scan(&n))
	return n
}

// A transaction left open anywhere in the cluster keeps gaps open, and nothing
// else: neither commits nor rollbacks wait for it, until the gap list is full.
func TestALongTransactionHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.relay(outbox.RelayConfig{MaxGaps: 10}).Run)
	long := w.begin().takeXid()
	for range 9 {
		w.begin().insert(newEvent("x")).rollback()
		w.emit("y")
	}
	w.reaches(18)
	require.Equal(t, 9, w.gaps())
	mine := w.begin().insert(newEvent("a")) // seq 19
	w.emit("b")
	w.reaches(20)
	require.Equal(t, 10, w.gaps(), "the list is full")
	w.begin().insert(newEvent("x")).rollback()
	w.emit("c", "d")
	mine.commit()
	// The gap that shows up makes room for the next; then it is full again.
	w.reaches(23)
	w.begin().insert(newEvent("x")).rollback()
	w.emit("e", "f")
	w.pollsAgain()
	w.pollsAgain()
	require.EqualValues(t, 23, w.pos(), "waits instead of growing the list")
	long.rollback()
	w.reaches(26)
	w.closes()
	require.Len(t, w.published(), 9+1+1+2+2)
}
