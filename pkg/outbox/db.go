package outbox

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// DB is the one way to write business data: every write can emit events.
type DB struct {
	Pool *pgxpool.Pool
	bell *postgres.Doorbell
}

// NewDB returns a DB over pool. bell wakes the relay and other subscribers
// after each commit; with nil they find out by polling.
func NewDB(pool *pgxpool.Pool, bell *postgres.Doorbell) *DB {
	return &DB{Pool: pool, bell: bell}
}

// ErrInDoubt says that the connection broke before the answer to COMMIT: the
// transaction happened or did not. Doing the work again must be safe.
var ErrInDoubt = errors.New("outcome of the commit is unknown")

// attempts bounds how often a transaction is run that loses against others.
const attempts = 4

// InTx runs fn in a read committed transaction and commits what it wrote and
// queued, with the events it emitted. An error of fn, of a statement or of an
// oversize event rolls everything back. A deadlock or serialization failure runs
// fn again, so fn must have no effects outside tx. A panic rolls back.
func (db *DB) InTx(ctx context.Context, fn func(tx *Tx) error) error {
	for try := 1; ; try++ {
		err := db.once(ctx, fn)
		if err == nil || try == attempts || !losesRace(err) {
			return err
		}
		wait := time.NewTimer(time.Duration(try)*5*time.Millisecond + rand.N(10*time.Millisecond)) //nolint:gosec // jitter
		select {
		case <-ctx.Done():
			wait.Stop()
			return err
		case <-wait.C:
		}
	}
}

func (db *DB) once(ctx context.Context, fn func(tx *Tx) error) error {
	s := db.session()
	defer s.Rollback()
	if err := fn(&s.tx); err != nil {
		return err
	}
	return s.Commit(ctx)
}

func losesRace(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01")
}

// Session is a transaction driven by hand; see the package documentation. It
// holds a connection of the pool until Commit or Rollback.
type Session struct {
	tx Tx
}

// session makes a Session that takes its connection at the first statement.
func (db *DB) session() *Session {
	return &Session{tx: Tx{db: db, owner: NoOwner}}
}

// Begin starts a transaction and runs the statements of first in it, all in one
// round trip. Read their results in the callbacks of first, which have run when
// Begin returns.
func (db *DB) Begin(ctx context.Context, first *pgx.Batch) (*Session, error) {
	s := db.Start(first)
	if err := s.Flush(ctx); err != nil {
		s.Rollback()
		return nil, err
	}
	return s, nil
}

// Start is Begin without a round trip of its own: BEGIN and the statements of
// first share that of the transaction's first statement, or of Flush, and the
// callbacks have run when that returns.
func (db *DB) Start(first *pgx.Batch) *Session {
	s := db.session()
	s.tx.session = true
	if first != nil {
		s.tx.first = first.QueuedQueries
	}
	return s
}

// ErrNotBegun says that a transaction could not begin: BEGIN failed, or what
// Start was given. It says nothing about the statement that came along.
var ErrNotBegun = errors.New("transaction could not begin")

// Flush begins the transaction if no statement has yet. Its error is the one of
// the beginning, also where a statement that it came along with has hidden it.
func (s *Session) Flush(ctx context.Context) error {
	if errors.Is(s.tx.failed, ErrNotBegun) {
		return s.tx.failed
	}
	if s.tx.begun {
		return nil
	}
	br, err := s.tx.send(ctx)
	if err != nil {
		return err
	}
	return br.Close()
}

// Tx returns the transaction that handlers get.
func (s *Session) Tx() *Tx { return &s.tx }

// Own says that whatever is queued and emitted from here on belongs to owner,
// a number of the caller's choice from 0.
func (s *Session) Own(owner int) { s.tx.owner = owner }

// Broken reports whether the connection of a running transaction is lost: then
// an error of a handler says nothing about the handler.
func (s *Session) Broken() bool {
	return s.tx.conn != nil && s.tx.conn.Conn().IsClosed()
}

// Err returns the first error that Emit or AddRecord recorded.
func (s *Session) Err() error { return s.tx.err }

// Commit sends the queued statements, the records and COMMIT in one round trip,
// gives the connection back and rings. A transaction without any statement
// touches no database. After an error the transaction is rolled back, except
// that errors.Is(err, ErrInDoubt) leaves that open.
func (s *Session) Commit(ctx context.Context) error {
	defer s.Rollback()
	return s.tx.commit(ctx)
}

// Rollback undoes everything and gives the connection back. After Commit it
// does nothing. It waits a short time of its own: the caller's context may be
// over, and a connection that does not answer is closed, which rolls back too.
func (s *Session) Rollback() {
	t := &s.tx
	t.done = true
	if t.conn == nil {
		return
	}
	conn := t.conn
	t.closeOpen()
	t.conn = nil
	defer conn.Release() // closes it when it is broken or still in a transaction
	if pc := conn.Conn().PgConn(); pc.IsClosed() || pc.TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, `rollback`)
}
