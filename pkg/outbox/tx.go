package outbox

import (
	"context"
	"errors"
	"fmt"
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
	session bool               // it is a Session's that Begin returned
	begun   bool               // BEGIN was sent
	first   []*pgx.QueuedQuery // sent with it, see Start
	done    bool
	queued  []statement
	rows    map[string]int // by sql: where in queued its rows are gathered
	locked  []locked
	records []Record
	rings   []string
	owner   int
	err     error       // first problem of Emit, AddRecord or use after the end
	failed  error       // first statement that failed; names the cause when fn hid it
	open    *rows       // results that nobody closed yet
	kept    map[any]any // see Keep
}

type statement struct {
	sql   string
	args  []any
	rows  [][]any // instead of args: see QueueRow
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

// send sends BEGIN and what goes with it if that is still due, the queued
// statements, and extra. It has read the results of all but extra. The caller
// closes what is returned.
func (t *Tx) send(ctx context.Context, extra ...*pgx.QueuedQuery) (pgx.BatchResults, error) {
	t.closeOpen()
	if t.done {
		return nil, errDone
	}
	if t.conn == nil {
		conn, err := t.db.Pool.Acquire(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: acquire connection: %w", ErrNotBegun, err)
		}
		t.conn = conn
	}
	b := pgx.Batch{QueuedQueries: make([]*pgx.QueuedQuery, 0, 1+len(t.first)+len(t.queued)+len(extra))}
	if !t.begun {
		b.Queue(`begin isolation level read committed read write`)
		b.QueuedQueries = append(b.QueuedQueries, t.first...)
	}
	begin := b.QueuedQueries
	queued := t.queued
	for _, q := range queued {
		b.Queue(q.sql, q.arguments()...)
	}
	b.QueuedQueries = append(b.QueuedQueries, extra...)
	t.begun, t.first, t.queued, t.rows = true, nil, nil, nil

	br := t.conn.SendBatch(ctx, &b)
	err := read(br, begin)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrNotBegun, err)
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

// read reads the results of statements, by their callbacks where they have one.
func read(br pgx.BatchResults, statements []*pgx.QueuedQuery) error {
	for _, q := range statements {
		var err error
		if q.Fn != nil {
			err = q.Fn(br)
		} else {
			_, err = br.Exec()
		}
		if err != nil {
			return err
		}
	}
	return nil
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
		if t.session {
			t.Ring(batchKey)
		} else {
			t.Ring(singleKey)
		}
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
