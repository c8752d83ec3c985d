package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// errDeposed says that another relay leads now.
var errDeposed = errors.New("another relay leads")

// leaderKey is rung by a leader that resigns.
const leaderKey = "msg.outbox.leader"

// A candidate takes a lease that has run out, that is its own from before its
// connection broke, or whose holder's connection is gone from the server: a
// leader reads and stores through that connection only, so it leads no more.
// Gaps without a bound get one, for the same reason as in sqlAdvance.
const sqlAcquire = `
	update msg.outbox_cursor
	set epoch = epoch + 1, leader = $1 || '/' || pg_backend_pid(), lease_until = clock_timestamp() + $2::interval,
	    gaps = array_replace(gaps, 0, pg_current_xact_id()::text::bigint), updated_at = clock_timestamp()
	where lease_until < clock_timestamp() or split_part(leader, '/', 1) = $1
	   or not exists (select from pg_stat_activity where pid::text = split_part(leader, '/', 2))
	returning epoch, pos, gaps`

const sqlRenew = `
	update msg.outbox_cursor set lease_until = clock_timestamp() + $2::interval where epoch = $1`

// sqlAdvance stores what is published. New gaps come with bound 0 and get the
// id of this very transaction: whoever owns one of their seqs had its own id
// before it drew the seq, so before the read that saw the hole, so before this
// statement. Reading the id first and storing it later would leave gaps without
// a bound when the leader dies in between. The lease is renewed on the way.
const sqlAdvance = `
	update msg.outbox_cursor
	set pos = $3, gaps = array_replace($4::bigint[], 0, pg_current_xact_id()::text::bigint),
	    lease_until = clock_timestamp() + $2::interval, updated_at = clock_timestamp()
	where epoch = $1
	returning pg_current_xact_id()::text::bigint`

const sqlResign = `
	update msg.outbox_cursor set lease_until = '-infinity', leader = '' where epoch = $1`

// sqlBury copies records that Kafka can never accept, under the leader's fence.
const sqlBury = `
	insert into msg.outbox_dead (seq, event_id, topic, key, value, headers, error)
	select o.seq, o.event_id, o.topic, o.key, o.value, o.headers, d.error
	from unnest($2::bigint[], $3::text[]) d(seq, error)
	join msg.outbox o using (seq)
	where exists (select from msg.outbox_cursor where epoch = $1 for update)
	on conflict do nothing`

// lease is one term of leadership, held through one connection.
type lease struct {
	conn  *pgx.Conn
	ttl   time.Duration
	epoch int64
	// until is when this process stops to trust the lease: earlier than the
	// database does, and counted from before the statement that renewed it.
	until time.Time
}

// acquire returns nil when somebody else leads.
func acquire(ctx context.Context, conn *pgx.Conn, sql, name string, ttl time.Duration) (*lease, cursor, error) {
	l := &lease{conn: conn, ttl: ttl}
	ctx, cancel := l.limit(ctx)
	defer cancel()
	sent := time.Now()
	var c cursor
	var flat []int64
	err := conn.QueryRow(ctx, sql, name, ttl).Scan(&l.epoch, &c.pos, &flat)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, c, nil
	case err != nil:
		return nil, c, fmt.Errorf("acquire lease: %w", err)
	}
	l.trust(sent)
	return l, fromTriples(c.pos, flat), nil
}

// limit bounds one statement. It outlives ctx's cancellation: a shutdown still
// has the cursor to store.
func (l *lease) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), l.ttl)
}

func (l *lease) trust(sent time.Time) { l.until = sent.Add(l.ttl - min(time.Second, l.ttl/4)) }

func (l *lease) holds() bool { return time.Now().Before(l.until) }

// due is when to renew.
func (l *lease) due() time.Time { return l.until.Add(-l.ttl / 3) }

func (l *lease) renew(ctx context.Context) error {
	ctx, cancel := l.limit(ctx)
	defer cancel()
	sent := time.Now()
	tag, err := l.conn.Exec(ctx, sqlRenew, l.epoch, l.ttl)
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errDeposed
	}
	l.trust(sent)
	return nil
}

// advance stores c and returns the bound that its new gaps got.
func (l *lease) advance(ctx context.Context, sql string, c cursor) (bound int64, err error) {
	ctx, cancel := l.limit(ctx)
	defer cancel()
	sent := time.Now()
	err = l.conn.QueryRow(ctx, sql, l.epoch, l.ttl, c.pos, c.triples()).Scan(&bound)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, errDeposed
	case err != nil:
		return 0, fmt.Errorf("store cursor: %w", err)
	}
	l.trust(sent)
	return bound, nil
}

// bury stores records that cannot be published; advance goes past them next.
func (l *lease) bury(ctx context.Context, seqs []int64, reasons []string) error {
	ctx, cancel := l.limit(ctx)
	defer cancel()
	if _, err := l.conn.Exec(ctx, sqlBury, l.epoch, seqs, reasons); err != nil {
		return fmt.Errorf("store unsendable records: %w", err)
	}
	return nil
}

func (l *lease) resign(ctx context.Context) error {
	ctx, cancel := l.limit(ctx)
	defer cancel()
	if _, err := l.conn.Exec(ctx, sqlResign, l.epoch); err != nil {
		return fmt.Errorf("resign: %w", err)
	}
	return nil
}
