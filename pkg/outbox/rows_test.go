package outbox_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Rows of one statement go out together, in their order and in the place of the
// first.
func TestQueuedRowsShareAStatement(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	_, err := db.Pool.Exec(ctx, `create table written (n serial, id int, part int, note text)`)
	require.NoError(t, err)
	const rows = 1203
	type name string // stands for what is text in the database
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		for i := range rows {
			note := name("odd")
			at := &note
			if i%2 == 0 {
				at = nil
			}
			tx.QueueRow(`insert into written (id, part, note) select id, count(*) over (), note from unnest($1::int[], $2::text[]) u (id, note)`, i, at)
			if i == 0 {
				tx.Queue(`insert into written (id) values (-1)`)
			}
		}
		return nil
	}))
	got := func(sql string) (n int) {
		require.NoError(t, db.Pool.QueryRow(ctx, sql).Scan(&n))
		return n
	}
	require.Equal(t, rows+1, count(t, db.Pool, "written"))
	require.Equal(t, rows/2, got(`select count(*) from written where note = 'odd' and id % 2 = 1`))
	require.Zero(t, got(`select count(*) from (select id, lag(id) over (order by n) as before from written where id >= 0) w where id <= before`))
	require.Equal(t, 501, got(`select n from written where id = -1`), "after the statement that was queued before it")
	require.Equal(t, 500*500+500*500+203*203, got(`select sum(part) from written`))
}

func TestAQueuedRowsErrorNamesItsOwnerOrNone(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	const insert = `insert into notes (id) select * from unnest($1::int[])`
	for name, owners := range map[string][]int{"one": {4, 4}, "two": {4, 5}} {
		s, err := db.Begin(ctx, nil)
		require.NoError(t, err)
		for _, owner := range owners {
			s.Own(owner)
			s.Tx().QueueRow(insert, 1)
		}
		var failed *outbox.StatementError
		require.ErrorAs(t, s.Commit(ctx), &failed, name)
		require.Equal(t, map[string]int{"one": 4, "two": outbox.NoOwner}[name], failed.Owner)
	}
	require.Zero(t, count(t, db.Pool, "notes"))
}

func TestRowsOfDifferentTypesGoOutApart(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	const insert = `insert into notes (id, body) select id, count(*) over () from unnest($1::int[]) id`
	for range 2 { // the second time in statements that are prepared
		require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
			tx.Queue(`truncate notes`)
			tx.QueueRow(insert, 1)
			tx.QueueRow(insert, int64(2))
			tx.QueueRow(insert, int64(3))
			return nil
		}))
		rows, err := db.Pool.Query(ctx, `select body from notes order by id`)
		require.NoError(t, err)
		together, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Equal(t, []string{"1", "2", "2"}, together)
	}
	s, err := db.Begin(ctx, nil)
	require.NoError(t, err)
	defer s.Rollback()
	// In the handler, whose mistake it is, and not at COMMIT.
	require.Panics(t, func() { s.Tx().QueueRow(insert, nil) })
	require.Panics(t, func() { s.Tx().QueueLockedRow(1, insert, nil) })
	s.Tx().QueueRow(insert, 1, "one value too many")
	require.Error(t, s.Commit(ctx))
}

// A row that needs a lock does not join a statement that goes out before the locks.
func TestALockedRowGoesOutBehindItsLock(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	const insert = `insert into notes (id, body) select id, count(*) over () from unnest($1::int[]) id`
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.QueueRow(insert, 1)
		tx.QueueLockedRow(1, insert, 2)
		return nil
	}))
	require.Equal(t, 2, count(t, db.Pool, "notes where body = '1'"))
}

// Transactions that lock the same in opposite orders: none runs twice, and no
// number is given twice or left out.
func TestLockedWritesTakeTurns(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	_, err := db.Pool.Exec(t.Context(), `create table numbers (series int, n int, unique (series, n))`)
	require.NoError(t, err)
	const series, writers, each = 5, 4, 25
	var runs atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
					runs.Add(1)
					for n := range 2 * series {
						i := n
						if w%2 == 1 {
							i = 2*series - 1 - n
						}
						if n == series { // what is sent before COMMIT takes no lock
							if _, err := tx.Exec(t.Context(), `select 1`); err != nil {
								return err
							}
						}
						tx.QueueLockedRow(int64(i/2), `insert into numbers
							select s, row_number() over (partition by s order by i) + coalesce((select max(n) from numbers where series = s), 0)
							from unnest($1::int[]) with ordinality u (s, i)`, i/2)
					}
					return nil
				}))
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, writers*each, runs.Load())
	var least, most int
	require.NoError(t, db.Pool.QueryRow(t.Context(), `select min(top), max(top) from (select max(n) top from numbers group by series) s`).Scan(&least, &most))
	require.Equal(t, []int{2 * writers * each, 2 * writers * each}, []int{least, most})
	require.Equal(t, series*2*writers*each, count(t, db.Pool, "numbers"))
}
