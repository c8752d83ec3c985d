package outbox

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
)

// QueueRow is Queue for one row of a statement that takes any number of them:
// rows that are queued with the same sql, by this handler or another one of the
// batch, go out together, in their order and in the place of the first. The
// statement's parameters are arrays, one for each value of a row:
//
//	tx.QueueRow(`insert into notes (id, body) select * from unnest($1::uuid[], $2::text[])`, id, body)
//
// A null is a nil pointer; QueueRow panics on a nil without a type. Rows whose
// types differ go out apart. A row among others costs a fraction of a statement.
// When one fails, nobody can tell which: the [StatementError] has no owner, unless
// all rows were of one.
//
// Take care with a statement that looks rows up in a table: its plan may have been
// made when that was empty, and is kept.
func (t *Tx) QueueRow(sql string, row ...any) {
	mustHaveTypes(sql, row)
	t.queueRow(sql, row, t.owner)
}

func (t *Tx) queueRow(sql string, row []any, owner int) {
	if i, open := t.rows[sql]; open && t.queued[i].takes(row) {
		q := &t.queued[i]
		q.rows = append(q.rows, row)
		if q.owner != owner {
			q.owner = NoOwner
		}
		return
	}
	if t.rows == nil {
		t.rows = map[string]int{}
	}
	t.rows[sql] = len(t.queued)
	t.queued = append(t.queued, statement{sql: sql, rows: [][]any{row}, owner: owner})
}

func mustHaveTypes(sql string, row []any) {
	if i := slices.Index(row, nil); i >= 0 {
		panic(fmt.Sprintf("outbox: value %d of a row for %.80q is nil without a type", i+1, sql))
	}
}

// takes reports whether the statement has room for the row.
func (q statement) takes(row []any) bool {
	return len(q.rows) < rowChunk && slices.EqualFunc(q.rows[0], row, func(a, b any) bool {
		return reflect.TypeOf(a) == reflect.TypeOf(b)
	})
}

// arguments are those of a statement, or the columns of its rows.
func (q statement) arguments() []any {
	if q.rows == nil {
		return q.args
	}
	columns := make([]any, len(q.rows[0]))
	for c, value := range q.rows[0] {
		column := reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(value)), len(q.rows), len(q.rows))
		for r, row := range q.rows {
			column.Index(r).Set(reflect.ValueOf(row[c]))
		}
		columns[c] = column.Interface()
	}
	return columns
}

// locked is a row that is to be written under an advisory lock.
type locked struct {
	key   int64
	sql   string
	row   []any
	owner int
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
	mustHaveTypes(sql, row)
	t.locked = append(t.locked, locked{key, sql, row, t.owner})
}

const lockAll = `select pg_advisory_xact_lock(key) from unnest($1::bigint[]) key`

// queueLocked moves the rows of QueueLockedRow to the end of the queue, behind a
// statement that takes their locks: so those that write see what it waited for.
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
