package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func newDB(t *testing.T) *outbox.DB {
	t.Helper()
	pool := pgtest.New(t, nil)
	_, err := pool.Exec(t.Context(), `create table notes (id int primary key, body text not null default '')`)
	require.NoError(t, err)
	return outbox.NewDB(pool, nil)
}

func count(t *testing.T, pool *pgxpool.Pool, table string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from `+table).Scan(&n))
	return n
}

func TestAnEventExistsIfAndOnlyIfTheTransactionCommits(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	boom := errors.New("boom")

	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.Queue(`insert into notes (id) values (1)`)
		tx.Emit(ctx, newEvent("a"), newEvent("b"), newEvent("c"))
		return nil
	}))
	for name, fn := range map[string]func(tx *outbox.Tx) error{
		"fn fails": func(tx *outbox.Tx) error {
			tx.Queue(`insert into notes (id) values (2)`)
			tx.Emit(ctx, newEvent("x"))
			_, err := tx.Exec(ctx, `insert into notes (id) values (3)`)
			require.NoError(t, err)
			return boom
		},
		"a queued statement fails": func(tx *outbox.Tx) error {
			tx.Emit(ctx, newEvent("x"))
			tx.Queue(`insert into notes (id) values (1)`)
			return nil
		},
		"fn hides an error": func(tx *outbox.Tx) error {
			tx.Emit(ctx, newEvent("x"))
			_, err := tx.Exec(ctx, `insert into notes (id) values (1)`)
			require.Error(t, err)
			return nil
		},
		"too large": func(tx *outbox.Tx) error {
			tx.Queue(`insert into notes (id) values (4)`)
			e := newEvent("x")
			e.Data = make([]byte, outbox.MaxEventBytes)
			tx.Emit(ctx, newEvent("y"), e)
			return nil
		},
	} {
		require.Error(t, db.InTx(ctx, fn), name)
	}
	require.PanicsWithValue(t, "boom", func() {
		_ = db.InTx(ctx, func(tx *outbox.Tx) error {
			tx.Emit(ctx, newEvent("x"))
			_, err := tx.Exec(ctx, `insert into notes (id) values (5)`)
			require.NoError(t, err)
			panic("boom")
		})
	})
	require.Equal(t, 1, count(t, db.Pool, "notes"))
	require.Equal(t, 3, count(t, db.Pool, "msg.outbox"))
	require.Zero(t, db.Pool.Stat().AcquiredConns(), "every connection came back")
}

func TestRowsKeepTheOrderOfEmitAndOfTheirTransaction(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	var want []string
	for _, n := range []int{1, 2, 700, 1001} {
		require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
			for range n {
				e := newEvent("k")
				want = append(want, e.ID.String())
				tx.Emit(ctx, e)
			}
			return nil
		}))
	}
	rows, err := db.Pool.Query(ctx, `select event_id::text from msg.outbox order by seq`)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, want, got)
	var xids, min, max int
	require.NoError(t, db.Pool.QueryRow(ctx, `select count(distinct xid), min(seq), max(seq) from msg.outbox`).Scan(&xids, &min, &max))
	require.Equal(t, []int{4, 1, 1704}, []int{xids, min, max})
}

func TestQueuedStatementsAreSeenByLaterReads(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.Queue(`insert into notes (id, body) values ($1, $2)`, 1, "one")
		var body string
		require.NoError(t, tx.QueryRow(ctx, `select body from notes where id = $1`, 1).Scan(&body))
		require.Equal(t, "one", body)
		require.ErrorIs(t, tx.QueryRow(ctx, `select body from notes where id = 2`).Scan(&body), pgx.ErrNoRows)

		tx.Queue(`update notes set body = 'two' where id = 1`)
		rows, err := tx.Query(ctx, `select body from notes`)
		require.NoError(t, err)
		bodies, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Equal(t, []string{"two"}, bodies)

		// Rows that nobody closed do not block the next statement.
		rows, err = tx.Query(ctx, `select generate_series(1, 10000)`)
		require.NoError(t, err)
		require.True(t, rows.Next())
		tag, err := tx.Exec(ctx, `delete from notes`)
		require.NoError(t, err)
		require.EqualValues(t, 1, tag.RowsAffected())
		return nil
	}))
}

func TestAQueuedStatementsErrorNamesItsOwner(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	for name, send := range map[string]func(s *outbox.Session) error{
		"commit": func(s *outbox.Session) error { return s.Commit(ctx) },
		"read": func(s *outbox.Session) error {
			s.Own(9)
			return s.Tx().QueryRow(ctx, `select 1`).Scan(new(int))
		},
	} {
		s, err := db.Begin(ctx, nil)
		require.NoError(t, err)
		for i := range 5 {
			s.Own(i)
			s.Tx().Queue(`insert into notes (id) values ($1)`, 1/(1+i/3)) // 1 1 1 0 0: the second fails
		}
		var failed *outbox.StatementError
		require.ErrorAs(t, send(s), &failed, name)
		require.Equal(t, 1, failed.Owner, name)
		var pg *pgconn.PgError
		require.ErrorAs(t, failed, &pg, name)
		require.Equal(t, "23505", pg.Code)
		s.Rollback()
		s.Rollback()
	}
	s, err := db.Begin(ctx, nil)
	require.NoError(t, err)
	defer s.Rollback()
	s.Own(3)
	s.Tx().Emit(ctx, event.Event{Type: topic, Subject: "x"})
	var refused *outbox.RecordError
	require.ErrorAs(t, s.Commit(ctx), &refused)
	require.Equal(t, 3, refused.Owner)
	s, err = db.Begin(ctx, nil)
	require.NoError(t, err)
	defer s.Rollback()
	for i := range 3 { // keys 2 1 0: the second to run fails
		s.Own(i)
		s.Tx().QueueLockedRow(int64(2-i), fmt.Sprintf(`insert into notes (id) select 1 from unnest($1::int[]) -- %d`, i), i)
	}
	var failed *outbox.StatementError
	require.ErrorAs(t, s.Commit(ctx), &failed)
	require.Equal(t, 1, failed.Owner)
	require.Zero(t, count(t, db.Pool, "notes"))
}

func TestBeginRunsItsBatchInTheSameTransaction(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	var first pgx.Batch
	var ids []int
	first.Queue(`insert into notes (id) values (1), (2) returning id`).Query(func(rows pgx.Rows) (err error) {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	})
	first.Queue(`select id from notes order by id for update`)
	s, err := db.Begin(ctx, &first)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, ids)
	require.Zero(t, count(t, db.Pool, "notes"), "not committed yet")
	s.Tx().AddRecord(outbox.Record{
		EventID: uuid.New(), Topic: "order-service.retry.1", Key: []byte{0, 1}, Value: nil,
		Headers: []kgo.RecordHeader{{Key: "x-retry-count", Value: []byte("1")}, {Key: "odd", Value: []byte{0xff}}},
	})
	require.NoError(t, s.Commit(ctx))
	require.Error(t, s.Commit(ctx), "once only")
	s.Rollback()
	require.Equal(t, 2, count(t, db.Pool, "notes"))
	require.Equal(t, 1, count(t, db.Pool, "msg.outbox"))

	var bad pgx.Batch
	bad.Queue(`insert into notes (id) values (1)`)
	_, err = db.Begin(ctx, &bad)
	require.Error(t, err)
	require.Zero(t, db.Pool.Stat().AcquiredConns())
}

// What Start is given goes along with the first statement, whose failure is told
// from theirs.
func TestStartCostsNoRoundTrip(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	start := func(sql string) (s *outbox.Session, ids *[]int) {
		var first pgx.Batch
		ids = new([]int)
		first.Queue(sql).Query(func(rows pgx.Rows) (err error) {
			*ids, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		})
		return db.Start(&first), ids
	}
	const insert = `insert into notes (id) values (1), (2) returning id`
	s, ids := start(insert)
	require.Zero(t, db.Pool.Stat().AcquiredConns())
	s.Tx().Queue(`insert into notes (id) values (3)`)
	var n int
	require.NoError(t, s.Tx().QueryRow(ctx, `select count(*) from notes`).Scan(&n))
	require.Equal(t, 3, n)
	require.Equal(t, []int{1, 2}, *ids)
	require.NoError(t, s.Flush(ctx), "has nothing to do")
	require.NoError(t, s.Commit(ctx))
	require.Equal(t, 3, count(t, db.Pool, "notes"))

	s, _ = start(insert)
	require.ErrorIs(t, s.Tx().QueryRow(ctx, `select 1`).Scan(&n), outbox.ErrNotBegun)
	require.ErrorIs(t, s.Flush(ctx), outbox.ErrNotBegun, "also when nobody looked")
	s.Rollback()
	s, _ = start(`select 1`)
	err := s.Tx().QueryRow(ctx, `select 1/0`).Scan(&n)
	require.Error(t, err)
	require.NotErrorIs(t, err, outbox.ErrNotBegun)
	require.NoError(t, s.Flush(ctx))
	require.Error(t, s.Commit(ctx))
	over, cancel := context.WithCancel(ctx)
	cancel()
	s, _ = start(`select 1`)
	require.ErrorIs(t, s.Flush(over), outbox.ErrNotBegun)
	s.Rollback()
	require.Zero(t, db.Pool.Stat().AcquiredConns())
}

func TestADeadlockIsRunAgain(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	_, err := db.Pool.Exec(ctx, `insert into notes (id) values (1), (2)`)
	require.NoError(t, err)
	var g sync.WaitGroup
	var barrier sync.WaitGroup
	barrier.Add(2)
	var runs atomic.Int32
	for _, order := range [][2]int{{1, 2}, {2, 1}} {
		g.Go(func() {
			met := false
			err := db.InTx(ctx, func(tx *outbox.Tx) error {
				runs.Add(1)
				if _, err := tx.Exec(ctx, `update notes set body = body || 'x' where id = $1`, order[0]); err != nil {
					return err
				}
				if !met {
					met = true
					barrier.Done()
					barrier.Wait()
				}
				tx.Emit(ctx, newEvent("k"))
				_, err := tx.Exec(ctx, `update notes set body = body || 'x' where id = $1`, order[1])
				return err
			})
			require.NoError(t, err)
		})
	}
	g.Wait()
	require.GreaterOrEqual(t, runs.Load(), int32(3), "none ran again") // 4: it met the other once more
	require.Equal(t, 2, count(t, db.Pool, "msg.outbox"))
	var bodies string
	require.NoError(t, db.Pool.QueryRow(ctx, `select string_agg(body, ',') from notes`).Scan(&bodies))
	require.Equal(t, "xx,xx", bodies)
}

func TestWhatKafkaCannotTakeIsRefusedBeforeItIsWritten(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	ok := newEvent("k")
	for name, change := range map[string]func(e *event.Event){
		"no id":         func(e *event.Event) { e.ID = uuid.Nil },
		"no subject":    func(e *event.Event) { e.Subject = "" },
		"no type":       func(e *event.Event) { e.Type = "" },
		"illegal topic": func(e *event.Event) { e.Type = "order created" },
		"dots":          func(e *event.Event) { e.Type = ".." },
		"long topic":    func(e *event.Event) { e.Type = strings.Repeat("t", 250) },
		"large":         func(e *event.Event) { e.Data = make([]byte, outbox.MaxEventBytes-50) },
	} {
		e := ok
		change(&e)
		var refused *outbox.RecordError
		require.ErrorAs(t, db.InTx(ctx, func(tx *outbox.Tx) error { tx.Emit(ctx, e); return nil }), &refused, name)
	}
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.AddRecord(outbox.Record{EventID: ok.ID, Topic: "t", Value: make([]byte, outbox.MaxRecordBytes)})
		return nil
	}))
	require.Error(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.AddRecord(outbox.Record{EventID: ok.ID, Topic: "t", Value: make([]byte, outbox.MaxRecordBytes+1)})
		return nil
	}))
}

func TestAnEventCarriesTheSpanThatEmittedIt(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	state, err := trace.ParseTraceState("vendor=1")
	require.NoError(t, err)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
	own := newEvent("k")
	own.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.Emit(ctx, newEvent("k"), own)
		tx.Emit(context.WithoutCancel(t.Context()), newEvent("k"))
		return nil
	}))
	rows, err := db.Pool.Query(ctx, `select headers from msg.outbox order by seq`)
	require.NoError(t, err)
	stored, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	require.NoError(t, err)
	var got []string
	for _, b := range stored {
		headers, err := outbox.DecodeHeaders(b)
		require.NoError(t, err)
		r := &kgo.Record{Headers: headers}
		got = append(got, header(r, "traceparent")+" "+header(r, "tracestate"))
	}
	require.Equal(t, []string{
		"00-01000000000000000000000000000000-0200000000000000-01 vendor=1",
		own.Traceparent + " ",
		" ",
	}, got)
}

func TestACommitWithoutAnswerIsInDoubt(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	_, err := db.Pool.Exec(ctx, `
		create function die() returns trigger language plpgsql as $$
		begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(5); return null; end $$;
		create constraint trigger die after insert on notes deferrable initially deferred for each row execute function die()`)
	require.NoError(t, err)
	err = db.InTx(ctx, func(tx *outbox.Tx) error {
		tx.Queue(`insert into notes (id) values (1)`)
		return nil
	})
	require.ErrorIs(t, err, outbox.ErrInDoubt)
	require.Eventually(t, func() bool { return db.Pool.Stat().AcquiredConns() == 0 }, patience, time.Millisecond)
}

func TestATransactionWithoutStatementsTouchesNoDatabase(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/none?connect_timeout=1")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	db := outbox.NewDB(pool, nil)
	require.NoError(t, db.InTx(t.Context(), func(*outbox.Tx) error { return nil }))
	require.Error(t, db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Queue(`select 1`); return nil }))
}
