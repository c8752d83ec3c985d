package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Tx is a running transaction. It has no Commit and no Rollback: who runs it
// decides, a function that writes in it does not. It is for one goroutine.
type Tx struct {
	db      *DB
	conn    *pgxpool.Conn
	begun   bool // BEGIN was sent
	done    bool
	queued  []statement
	rows    map[string]int // by sql: where in queued its rows are gathered
	locked  []locked
	records []Record
	rings   []string
	owner   int
	err     error // first problem of Emit, AddRecord or use after the end
	failed  error // first statement that failed; names the cause when fn hid it
	open    *rows // results that nobody closed yet
}

type statement struct {
	sql   string
	args  []any // in a statement of rows: of the first
	more  [][]any
	owner int
}

// locked is a row that is to be written under an advisory lock.
type locked struct {
	key   int64
	sql   string
	row   []any
	owner int
}

// NoOwner is the owner of what nobody claimed with Session.Own.
const NoOwner = -1

// StatementError says which queued statement failed, and whose it was.
type StatementError struct {
	Owner int
	SQL   string
	Err   error
}

// Error names the statement and what the database said.
func (e *StatementError) Error() string {
	return fmt.Sprintf("queued statement %.80q: %v", e.SQL, e.Err)
}

// Unwrap returns the driver's error.
func (e *StatementError) Unwrap() error { return e.Err }

var errDone = errors.New("transaction has ended")

// Queue defers a write: it is sent with the next Exec, Query or QueryRow, or
// with COMMIT. Its error comes from there, as a *StatementError. Use it for
// writes whose result does not matter here.
func (t *Tx) Queue(sql string, args ...any) {
	t.queued = append(t.queued, statement{sql: sql, args: args, owner: t.owner})
}

// QueueRow is Queue for one row of a statement that takes any number of them:
// rows that are queued with the same sql, by this handler or another one of the
// batch, go out together, in their order and in the place of the first. The
// statement's parameters are arrays, one for each value of a row:
//
//	tx.QueueRow(`insert into notes (id, body) select * from unnest($1::uuid[], $2::text[])`, id, body)
//
// The values of one place have one type, and a null is a nil pointer: QueueRow
// panics otherwise. A row among others costs a fraction of a statement. When one
// fails, nobody can tell which: the [StatementError] has no owner, unless all
// rows were of one.
func (t *Tx) QueueRow(sql string, row ...any) {
	t.queueRow(sql, row, t.owner)
}

func (t *Tx) queueRow(sql string, row []any, owner int) {
	for i, value := range row {
		if value == nil {
			panic(fmt.Sprintf("outbox: value %d of a row for %.80q is nil without a type", i+1, sql))
		}
	}
	if i, open := t.rows[sql]; open && len(t.queued[i].more) < rowChunk-1 {
		q := &t.queued[i]
		if !slices.EqualFunc(q.args, row, func(a, b any) bool { return reflect.TypeOf(a) == reflect.TypeOf(b) }) {
			panic(fmt.Sprintf("outbox: rows of different types for %.80q", sql))
		}
		q.more = append(q.more, row)
		if q.owner != owner {
			q.owner = NoOwner
		}
		return
	}
	if t.rows == nil {
		t.rows = map[string]int{}
	}
	t.rows[sql] = len(t.queued)
	t.queued = append(t.queued, statement{sql: sql, args: row, more: [][]any{}, owner: owner})
}

// arguments are those of a statement, or the columns of its rows.
func (q statement) arguments() []any {
	if q.more == nil {
		return q.args
	}
	columns := make([]any, len(q.args))
	for c, first := range q.args {
		column := reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(first)), 0, 1+len(q.more))
		column = reflect.Append(column, reflect.ValueOf(first))
		for _, row := range q.more {
			column = reflect.Append(column, reflect.ValueOf(row[c]))
		}
		columns[c] = column.Interface()
	}
	return columns
}

// QueueLockedRow is QueueRow for a row that is written under a lock: of those
// with the same key, in all transactions of the database, each sees what the one
// before it committed. So it can take the number after the highest, and readers
// never see a number appear below another. Rows of one key that go out together
// are in their order; the statement has to number them.
//
// The lock is pg_advisory_xact_lock(key). These rows go out with COMMIT, after
// what else is queued, and their keys are locked in ascending order, whatever
// order they came in: no two transactions deadlock over these locks, and none is
// held while a program thinks. Until COMMIT each key is an entry of the server's
// lock table, which has room for max_locks_per_transaction times max_connections
// of them.
func (t *Tx) QueueLockedRow(key int64, sql string, row ...any) {
	t.locked = append(t.locked, locked{key, sql, row, t.owner})
}

const lockAll = `select pg_advisory_xact_lock(key) from unnest($1::bigint[]) key`

// queueLocked moves the rows of QueueLockedRow to the end of the queue, behind
// their locks: one statement, so that those that write see what the locks waited for.
func (t *Tx) queueLocked() {
	if len(t.locked) == 0 {
		return
	}
	slices.SortStableFunc(t.locked, func(a, b locked) int { return cmp.Compare(a.key, b.key) })
	keys := make([]int64, len(t.locked))
	for i, l := range t.locked {
		keys[i] = l.key
	}
	t.queued = append(t.queued, statement{sql: lockAll, args: []any{slices.Compact(keys)}, owner: NoOwner})
	t.rows = nil // none of these joins a statement before the locks
	for _, l := range t.locked {
		t.queueRow(l.sql, l.row, l.owner)
	}
	t.locked = nil
}

// Ring wakes the doorbell's subscribers of keys after COMMIT.
func (t *Tx) Ring(keys ...string) {
	for _, key := range keys {
		if !slices.Contains(t.rings, key) {
			t.rings = append(t.rings, key)
		}
	}
}

// Exec sends the queued statements and then this one, in one round trip.
func (t *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	br, err := t.send(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := br.Exec()
	if cerr := br.Close(); err == nil {
		err = cerr
	}
	t.note(err)
	return tag, err
}

// Query sends the queued statements and then this one, in one round trip. The
// rows must be read or closed before the next use of the transaction, which
// otherwise closes them.
func (t *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	br, err := t.send(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return nil, err
	}
	rs, err := br.Query()
	if err != nil {
		_ = br.Close()
		t.note(err)
		return nil, err
	}
	t.open = &rows{Rows: rs, br: br, tx: t}
	return t.open, nil
}

// QueryRow is Query for at most one row; Scan returns pgx.ErrNoRows for none.
func (t *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rs, err := t.Query(ctx, sql, args...)
	return row{rows: rs, err: err}
}

// send sends BEGIN if that is still due, the queued statements, and extra. It
// has read the results of all but extra. The caller closes what is returned.
func (t *Tx) send(ctx context.Context, extra ...*pgx.QueuedQuery) (pgx.BatchResults, error) {
	t.closeOpen()
	if t.done {
		return nil, errDone
	}
	if t.conn == nil {
		conn, err := t.db.Pool.Acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("acquire connection: %w", err)
		}
		t.conn = conn
	}
	b := pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 1+len(t.queued)+len(extra))}
	begin := !t.begun
	if begin {
		b.Queue(`begin isolation level read committed read write`)
	}
	queued := t.queued
	for _, q := range queued {
		b.Queue(q.sql, q.arguments()...)
	}
	b.QueuedQueries = append(b.QueuedQueries, extra...)
	t.begun, t.queued, t.rows = true, nil, nil

	br := t.conn.SendBatch(ctx, &b)
	var err error
	if begin {
		_, err = br.Exec()
	}
	for i := 0; err == nil && i < len(queued); i++ {
		if _, err = br.Exec(); err != nil {
			err = &StatementError{Owner: queued[i].owner, SQL: queued[i].sql, Err: err}
		}
	}
	if err != nil {
		_ = br.Close()
		t.note(err)
		return nil, err
	}
	return br, nil
}

func (t *Tx) commit(ctx context.Context) error {
	if t.done {
		return errDone
	}
	if t.err != nil {
		return t.err
	}
	t.queueLocked()
	if !t.begun && len(t.queued) == 0 && len(t.records) == 0 {
		t.done = true
		t.ring()
		return nil
	}
	t.closeOpen()
	if t.conn != nil && t.conn.Conn().PgConn().TxStatus() == 'E' {
		// fn hid the error of a statement; COMMIT would quietly roll back.
		return fmt.Errorf("commit: a statement had failed: %w", cmpErr(t.failed, pgx.ErrTxCommitRollback))
	}
	extra := append(t.inserts(), &pgx.QueuedQuery{SQL: `commit`})
	br, err := t.send(ctx, extra...)
	if err != nil {
		return t.commitError(err)
	}
	var tag pgconn.CommandTag
	for range extra {
		if tag, err = br.Exec(); err != nil {
			break
		}
	}
	// Once COMMIT was acknowledged, a connection that breaks changes nothing.
	if cerr := br.Close(); err == nil && tag.String() != "COMMIT" {
		err = cerr
	}
	if err != nil {
		return t.commitError(err)
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("commit: %w", cmpErr(t.failed, pgx.ErrTxCommitRollback))
	}
	t.done = true
	t.ring()
	return nil
}

// commitError adds ErrInDoubt when COMMIT may have reached the server and
// nothing is known about its outcome.
func (t *Tx) commitError(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Severity == "ERROR" || t.conn == nil || !t.conn.Conn().IsClosed() || pgconn.SafeToRetry(err) {
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("commit: %w: %w", ErrInDoubt, err)
}

func (t *Tx) ring() {
	if t.db.bell == nil {
		return
	}
	if len(t.records) > 0 {
		t.Ring(relayKey)
	}
	t.db.bell.Ring(t.rings...)
}

func (t *Tx) note(err error) {
	if t.failed == nil {
		t.failed = err
	}
}

func (t *Tx) closeOpen() {
	if t.open != nil {
		t.open.Close()
	}
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// rows are a batch's last results: closing them closes the batch, so that the
// connection is free for the next statement.
type rows struct {
	pgx.Rows
	br  pgx.BatchResults
	tx  *Tx
	err error
}

// Next advances; after the last row it closes the rows.
func (r *rows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close ends the results.
func (r *rows) Close() {
	r.Rows.Close()
	if r.tx.open != r {
		return
	}
	r.tx.open = nil
	if r.err = r.br.Close(); r.err != nil {
		r.tx.note(r.err)
	}
}

// Err returns what ended the rows early.
func (r *rows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

type row struct {
	rows pgx.Rows
	err  error
}

// Scan reads the row.
func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
