package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// What fails at COMMIT has no culprit by name: it is found by halving.
func TestUnknownCulpritAtCommit(t *testing.T) {
	r := setupOnePartition(t)
	_, err := r.pool.Exec(t.Context(), `insert into strict values ('taken', 1)`)
	require.NoError(t, err)
	id, bad := uuid.New(), uuid.New()
	events := make([]event.Event, 0, 60)
	for i := range 60 {
		if i == 37 {
			events = append(events, order(bad, "taken"))
		}
		events = append(events, order(id, fmt.Sprint(i)))
	}
	r.produce(events...)
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		tx.Queue(`insert into strict values ($1, 1)`, p.Reason)
		return apply(ctx, tx, e, p)
	}))
	r.eventually("the others have their effect", func() bool { return len(r.notes(id)) == 60 })
	require.Equal(t, names(60, ""), r.notes(id))
	r.eventually("the culprit is dead", func() bool { return r.count(`select count(*) from msg.dead_letters`) == 1 })
	require.Equal(t, 1, r.count(`select count(*) from msg.dead_letters where error_class = 'transient' and attempts = 4`), "a duplicate may pass: it is retried")
	require.Zero(t, r.count(`select count(*) from msg.dead_letters where key <> $1`, []byte(bad.String())))
}

// A queued statement fails long after its handler returned; it is its own. In a
// statement of rows nobody knows whose, and it is found by halving.
func TestQueuedStatementThatFails(t *testing.T) {
	for name, write := range map[string]func(tx *outbox.Tx, note string, amount int){
		"statement": func(tx *outbox.Tx, note string, amount int) {
			tx.Queue(`insert into strict values ($1, $2)`, note, amount)
		},
		"row": func(tx *outbox.Tx, note string, amount int) {
			tx.QueueRow(`insert into strict select * from unnest($1::text[], $2::int[])`, note, amount)
		},
		"locked row": func(tx *outbox.Tx, note string, amount int) {
			tx.QueueLockedRow(int64(len(note)), `insert into strict select * from unnest($1::text[], $2::int[])`, note, amount)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := setupOnePartition(t)
			id, bad := uuid.New(), uuid.New()
			var events []event.Event
			for i := range 20 {
				events = append(events, order(id, fmt.Sprint(i)))
				if i == 7 {
					events = append(events, order(bad, "bad"))
				}
			}
			r.produce(events...)
			r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
				amount := 1
				if p.Reason == "bad" {
					amount = -1
				}
				write(tx, p.Reason, amount)
				return apply(ctx, tx, e, p)
			}))
			r.eventually("the others have their effect", func() bool { return len(r.notes(id)) == 20 })
			require.Equal(t, names(20, ""), r.notes(id))
			r.eventually("it is dead at once", func() bool {
				return r.count(`select count(*) from msg.dead_letters where error_class = 'constraint' and attempts = 1`) == 1
			})
			require.Equal(t, 20, r.count(`select count(*) from strict`))
			require.Empty(t, r.notes(bad))
		})
	}
}

// A handler that hides the error of its statement spoils the transaction for
// the others of its batch, and is found all the same.
func TestHandlerThatHidesAnError(t *testing.T) {
	r := setupOnePartition(t)
	id, bad := uuid.New(), uuid.New()
	r.produce(order(id, "0"), order(bad, "bad"), order(id, "1"), order(id, "2"))
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if p.Reason == "bad" {
			_, _ = tx.Exec(ctx, `select 1/0`)
			return nil
		}
		var n int
		if err := tx.QueryRow(ctx, `select 1`).Scan(&n); err != nil {
			return err
		}
		return apply(ctx, tx, e, p)
	}))
	r.eventually("the others have their effect", func() bool { return len(r.notes(id)) == 3 })
	r.eventually("the culprit is dead", func() bool { return r.count(`select count(*) from msg.dead_letters`) == 1 })
	require.Equal(t, bad.String(), string(r.read(dlq, 1)[0].Key))
}

// A transaction that deadlocks with another is run again; it is nobody's failed
// attempt.
func TestDeadlocksAreNotCounted(t *testing.T) {
	r := setup(t)
	_, err := r.pool.Exec(t.Context(), `insert into strict values ('a', 1), ('b', 1)`)
	require.NoError(t, err)
	raise := func(ctx context.Context, tx interface {
		Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	}, note string) error {
		_, err := tx.Exec(ctx, `update strict set amount = amount + 1 where note = $1`, note)
		return err
	}
	other, err := r.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = other.Exec(t.Context(), `set local deadlock_timeout = '1h'`) // so that it is never the victim
	require.NoError(t, err)
	require.NoError(t, raise(t.Context(), other, "b"))
	var runs atomic.Int64
	locked, goOn := make(chan struct{}), make(chan struct{})
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if err := raise(ctx, tx, "a"); err != nil {
			return err
		}
		if runs.Add(1) == 1 {
			close(locked)
			<-goOn
		}
		if err := raise(ctx, tx, "b"); err != nil {
			return err
		}
		return apply(ctx, tx, e, p)
	}))
	id := uuid.New()
	r.produce(order(id, "x"))
	<-locked
	var g errgroup.Group
	g.Go(func() error {
		if err := raise(t.Context(), other, "a"); err != nil {
			return err
		}
		return other.Commit(t.Context())
	})
	r.eventually("the other waits", func() bool {
		return r.count(fmt.Sprintf(`select count(*) from pg_stat_activity where pid = %d and wait_event_type = 'Lock'`, other.Conn().PgConn().PID())) > 0
	})
	close(goOn)
	require.NoError(t, g.Wait())
	r.eventually("it has its effect", func() bool { return len(r.notes(id)) == 1 })
	require.Greater(t, runs.Load(), int64(1))
	require.Equal(t, 6, r.count(`select sum(amount) from strict`))
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

// Events that a handler emits exist once, whatever became of its batch.
func TestEmittedEventsExistOnce(t *testing.T) {
	r := setupOnePartition(t)
	out := event.TypeOrderStatusChanged
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, out))
	var failed atomic.Bool
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		tx.Emit(ctx, event.New("test", event.OrderStatusChanged{OrderID: p.OrderID, To: p.Reason}))
		if p.Reason == "7" && failed.CompareAndSwap(false, true) {
			return errors.New("once")
		}
		return apply(ctx, tx, e, p)
	}))
	id := uuid.New()
	var events []event.Event
	for _, n := range names(10, "") {
		events = append(events, order(id, n))
	}
	r.produce(events...)
	r.eventually("all have their effect", func() bool { return len(r.notes(id)) == 10 })
	got := r.read(out, 10)
	for i, rec := range got {
		e, err := event.Decode[event.OrderStatusChanged](event.Event{Data: rec.Value})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), e.To)
	}
	require.EqualValues(t, 10, r.size(out))
}

// A head whose retry record never comes is tried without it.
func TestSweeperTriesOverdueHeads(t *testing.T) {
	t.Parallel()
	r := setupWithoutRelay(t) // so no retry record is ever published
	r.cc.OverdueAfter = 10 * time.Millisecond
	id := uuid.New()
	sub, _ := failing(2, errors.New("hm"), "n0")
	r.consume(sub)
	for _, n := range names(4, "n") {
		r.produce(order(id, n))
	}
	// Lease and grace together are longer than a test: make them due.
	r.eventually("all have their effect", func() bool {
		_, err := r.pool.Exec(t.Context(), `update msg.parked_keys set lease_until = '-infinity', head_due = least(head_due, now() - interval '1 s')`)
		require.NoError(t, err)
		return len(r.notes(id)) == 4
	})
	require.Equal(t, names(4, "n"), r.notes(id))
	retries := r.count(`select count(*) from msg.outbox`)
	require.Positive(t, retries)

	// The records come after all, late: they change nothing.
	r.relay()
	r.eventually("they are duplicates", func() bool { return r.results("duplicate") == retries })
	require.Equal(t, names(4, "n"), r.notes(id))
}

// A process that dies between a head's success and its followers leaves them to
// the sweepers of others. Several at once disturb neither each other nor a
// follower that fails meanwhile and has to wait for its retry.
func TestSweepersGoOnWithFollowers(t *testing.T) {
	r := setup(t)
	r.cc.SweepInterval = 5 * time.Millisecond
	r.cc.RetryDelays = []time.Duration{30 * time.Millisecond, 30 * time.Millisecond, 30 * time.Millisecond}
	const events = 100
	id := uuid.New()
	tx, err := r.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `insert into msg.parked_keys (consumer, key, head_event, head_due) values ($1, $2, null, now() - interval '1 min')`, number, []byte(id.String()))
	require.NoError(t, err)
	for i, n := range names(events, "n") {
		rec := record(order(id, n))
		_, err = tx.Exec(t.Context(), `insert into msg.parked_events (consumer, key, event_id, topic, partition, "offset", record_key, headers, value)
			values ($1, $2, $3, $4, 0, $5, $2, $6, $7)`, number, rec.Key, header(rec, "ce_id"), topic, i, outbox.EncodeHeaders(rec.Headers), rec.Value)
		require.NoError(t, err)
	}
	require.NoError(t, tx.Commit(t.Context()))
	var failed sync.Map
	handler := kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if _, err := tx.Exec(ctx, `select pg_sleep(0.003)`); err != nil {
			return err
		}
		tries, _ := failed.LoadOrStore(p.Reason, new(atomic.Int64))
		if p.Reason[len(p.Reason)-1] == '5' && tries.(*atomic.Int64).Add(1) <= 3 {
			return errors.New("hm")
		}
		return apply(ctx, tx, e, p)
	})
	for range 3 {
		r.consume(handler)
	}
	r.eventually("all have their effect", func() bool {
		_, err := r.pool.Exec(context.Background(), `update msg.parked_keys set lease_until = '-infinity'`)
		return err == nil && r.count(`select count(*) from effects`) >= events && r.count(`select count(*) from msg.parked_keys`) == 0
	})
	require.Equal(t, names(events, "n"), r.notes(id))
	r.eventually("retries are over", func() bool { return r.committed(kafka.RetryTopic(group, 1), kafka.RetryTopic(group, 2)) })
	require.Equal(t, names(events, "n"), r.notes(id))
}

func TestProcessedEventsArePruned(t *testing.T) {
	t.Parallel()
	r := setupWithoutRelay(t)
	r.cc.PruneInterval = 20 * time.Millisecond
	r.cc.Retention = time.Hour
	day := func(n int) uuid.UUID { return idOf(time.Now().Add(time.Duration(n) * 24 * time.Hour)) }
	kept := []uuid.UUID{day(0), uuid.New()}
	_, err := r.pool.Exec(t.Context(), `insert into msg.processed_events (consumer, event_id, attempt, at)
		select $1, id, 0, now() - interval '1 min' from unnest($2::uuid[]) id`, number, kept)
	require.NoError(t, err)
	_, err = r.pool.Exec(t.Context(), `insert into msg.processed_events (consumer, event_id, attempt, at) values
		($1, $2, 0, now() - interval '10 days'), ($1, $3, 0, now() - interval '10 days'), ($1, $4, 17, now() - interval '1 min')`,
		number, day(-10), day(10), day(-11)) // the last is the redrive of an old letter
	require.NoError(t, err)
	r.consume(kafka.On(number, topic, apply))
	r.eventually("old claims go", func() bool { return r.count(`select count(*) from msg.processed_events`) == 3 })
	rows, err := r.pool.Query(t.Context(), `select attempt from msg.processed_events order by 1`)
	require.NoError(t, err)
	left, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	require.Equal(t, []int{0, 0, 17}, left)
}
