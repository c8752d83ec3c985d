package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// loading returns a subscription whose Load keeps a note for each event, unless
// fault says that it fails, and whose Apply writes that note.
func loading(loads *[][]uuid.UUID, fault func(events []event.Event) error) kafka.Subscription {
	var mu sync.Mutex
	sub := kafka.On(number, topic, func(_ context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		note, ok := outbox.Kept[string](tx, e.ID)
		if !ok {
			return errors.New("nothing was loaded for it")
		}
		effect(tx, e, note)
		return nil
	})
	sub.Load = func(ctx context.Context, tx *outbox.Tx, events []event.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if err := fault(events); err != nil {
			return err
		}
		ids := make([]uuid.UUID, len(events))
		for i, e := range events {
			ids[i] = e.ID
		}
		*loads = append(*loads, ids)
		rows, err := tx.Query(ctx, `select id, 'loaded with ' || count(*) over () from unnest($1::uuid[]) as u (id)`, ids)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id uuid.UUID
			var note string
			if err := rows.Scan(&id, &note); err != nil {
				return err
			}
			outbox.Keep(tx, id, note)
		}
		return rows.Err()
	}
	return sub
}

func none([]event.Event) error { return nil }

// The events of a batch are loaded at once, before any of them is applied, in the
// round trip that claims them: those that were handled before too.
func TestABatchIsLoadedAtOnce(t *testing.T) {
	r := setupOnePartition(t)
	var events []event.Event
	var records []*kgo.Record
	for range 20 {
		e := order(uuid.New(), "")
		events = append(events, e)
		records = append(records, record(e))
	}
	records = append(records, record(events[3])) // twice in the batch
	r.produceRecords(records...)
	var loads [][]uuid.UUID
	sub := loading(&loads, none)
	load, claimed := sub.Load, 0
	sub.Load = func(ctx context.Context, tx *outbox.Tx, events []event.Event) error {
		claimed += r.count(`select count(*) from pg_locks c join pg_locks k using (database, pid) join pg_database d on d.oid = database and datname = current_database()
			where c.relation = 'msg.processed_events'::regclass and c.mode = 'RowExclusiveLock'
				and k.relation = 'msg.parked_keys'::regclass and k.mode = 'RowShareLock'`)
		return load(ctx, tx, events)
	}
	stop := r.consume(sub)
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) == 20 })
	stop()
	require.Len(t, loads, 1)
	require.Zero(t, claimed, "the first statement of Load takes the claims along")
	for i, e := range events {
		require.Equal(t, e.ID, loads[0][i])
		require.Equal(t, []string{"loaded with 21"}, r.notes(uuid.MustParse(e.Subject)))
	}

	r.produceRecords(records...)
	other := order(uuid.New(), "")
	r.produce(other)
	stop = r.consume(loading(&loads, none))
	r.eventually("the new one has its effect", func() bool { return r.count(`select count(*) from effects`) == 21 })
	stop()
	require.Equal(t, 1, r.count(`select count(*) from effects where event_id = $1`, events[0].ID))
}

// An error or a panic of Load is that of all its events: they are tried in
// smaller batches until it is clear whose it is.
func TestALoadThatFailsIsolatesOneRecord(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("cannot be read") },
		"panic": func() error { panic("cannot be read") },
	} {
		t.Run(name, func(t *testing.T) {
			r := setupOnePartition(t)
			events := make([]event.Event, 20)
			records := make([]*kgo.Record, 20)
			for i := range events {
				events[i] = order(uuid.New(), "")
				records[i] = record(events[i])
			}
			bad := events[11].ID
			r.produceRecords(records...)
			var loads [][]uuid.UUID
			r.consume(loading(&loads, func(events []event.Event) error {
				if slices.ContainsFunc(events, func(e event.Event) bool { return e.ID == bad }) {
					return fail()
				}
				return nil
			}))
			r.eventually("the others have their effect", func() bool { return r.count(`select count(*) from effects`) == 19 })
			r.eventually("the bad one is dead", func() bool { return r.count(`select count(*) from msg.dead_letters where attempts = 4`) == 1 })
			require.Equal(t, 1, r.count(`select count(*) from msg.dead_letters where event_id = $1`, bad))
		})
	}
}

// A Load that hides what its statement said does not make events duplicates.
func TestALoadCannotHideThatNothingBegan(t *testing.T) {
	r := setupOnePartition(t)
	_, err := r.pool.Exec(t.Context(), `alter table msg.processed_events rename to elsewhere`)
	require.NoError(t, err)
	var loads atomic.Int64
	sub := kafka.On(number, topic, apply)
	sub.Load = func(ctx context.Context, tx *outbox.Tx, _ []event.Event) error {
		loads.Add(1)
		_, _ = tx.Exec(ctx, `select 1`)
		return nil
	}
	r.produce(order(uuid.New(), ""))
	r.consume(sub)
	r.eventually("it is tried again", func() bool { return loads.Load() > 1 })
	_, err = r.pool.Exec(t.Context(), `alter table msg.elsewhere rename to processed_events`)
	require.NoError(t, err)
	r.eventually("it has its effect", func() bool { return r.count(`select count(*) from effects`) == 1 })
	require.Zero(t, r.count(`select count(*) from msg.dead_letters`))
}

// A handler that begins a transaction elsewhere fails as with anything else: it
// is not our database that is away.
func TestATransactionElsewhereThatCannotBeginIsAnAttempt(t *testing.T) {
	r := setupOnePartition(t)
	r.produce(order(uuid.New(), ""))
	r.consume(kafka.On(number, topic, func(context.Context, *outbox.Tx, event.Event, event.OrderCancelled) error {
		return fmt.Errorf("elsewhere: %w", outbox.ErrNotBegun)
	}))
	r.eventually("it is dead", func() bool { return r.count(`select count(*) from msg.dead_letters where attempts = 4`) == 1 })
}

// What waited behind a key is loaded in its turn, like anything else.
func TestFollowersAreLoaded(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	var loads [][]uuid.UUID
	head := order(id, "")
	r.produce(head, order(id, ""), order(id, ""), order(id, ""))
	tries := 0
	r.consume(loading(&loads, func(events []event.Event) error {
		if slices.ContainsFunc(events, func(e event.Event) bool { return e.ID == head.ID }) {
			if tries++; tries <= 3 { // of four, of two, and alone
				return errors.New("not yet")
			}
		}
		return nil
	}))
	r.eventually("all have their effect", func() bool { return len(r.notes(id)) == 4 })
	r.eventually("nothing waits", func() bool { return r.count(`select count(*) from msg.parked_keys`) == 0 })
	require.Equal(t, 3, r.results("parked"), "they were behind the head, and drained")
}

func TestBySubjectGivesEachIDOnceAndInOrder(t *testing.T) {
	t.Parallel()
	low, high := uuid.MustParse("01900000-0000-7000-8000-000000000001"), uuid.MustParse("f1900000-0000-7000-8000-000000000001")
	load := kafka.BySubject(func(_ context.Context, _ *outbox.Tx, ids []uuid.UUID) error {
		require.Equal(t, []uuid.UUID{low, high}, ids)
		return nil
	})
	require.NoError(t, load(t.Context(), nil, []event.Event{
		{Subject: high.String()}, {Subject: low.String()}, {Subject: "no id"}, {}, {Subject: high.String()},
	}))
}
