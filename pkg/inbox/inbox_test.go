package inbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func setup(t *testing.T) (*outbox.DB, *pgxpool.Pool) {
	t.Parallel()
	pool := pgtest.New(t, nil)
	return outbox.NewDB(pool, nil), pool
}

func claims(n int) []inbox.Claim {
	list := make([]inbox.Claim, n)
	for i := range list {
		list[i] = inbox.Claim{Consumer: 1, Event: uuid.Must(uuid.NewV7())}
	}
	return list
}

func TestClaimIsWonOnce(t *testing.T) {
	db, pool := setup(t)
	all := claims(5)
	s, state, err := inbox.Begin(t.Context(), db, all[:3], nil)
	require.NoError(t, err)
	require.Len(t, state.Won, 3)
	require.NoError(t, s.Commit(t.Context()))

	s, state, err = inbox.Begin(t.Context(), db, all, nil)
	require.NoError(t, err)
	require.Len(t, state.Won, 2)
	s.Rollback()

	taken, _, err := inbox.Look(t.Context(), pool, all, nil)
	require.NoError(t, err)
	require.Len(t, taken, 3)

	retry := all[0]
	retry.Attempt++
	s, state, err = inbox.Begin(t.Context(), db, []inbox.Claim{retry, all[3]}, nil)
	require.NoError(t, err)
	defer s.Rollback()
	require.Len(t, state.Won, 2, "another attempt is another claim, and a rollback gives its claims back")
}

// Of two transactions that claim the same, one waits for the other.
func TestClaimWaitsForARival(t *testing.T) {
	db, pool := setup(t)
	all := claims(1)
	first, _, err := inbox.Begin(t.Context(), db, all, nil)
	require.NoError(t, err)
	won := make(chan int, 1)
	go func() {
		second, state, err := inbox.Begin(t.Context(), db, all, nil)
		if err != nil {
			won <- -1
			return
		}
		second.Rollback()
		won <- len(state.Won)
	}()
	require.Eventually(t, func() bool {
		var n int
		require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`).Scan(&n))
		return n == 1
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, first.Commit(t.Context()))
	require.Zero(t, <-won)
}

func TestParkedKeyLivesUntilNothingWaits(t *testing.T) {
	db, pool := setup(t)
	k := inbox.Key{Consumer: 1, Bytes: "k\x00\xff"}
	event := func(n int) inbox.Event {
		return inbox.Event{ID: uuid.Must(uuid.NewV7()), Topic: "t", Offset: int64(n), Time: time.Now(), Value: fmt.Append(nil, n)}
	}
	head, follower := event(0), event(1)
	head.Attempt = 1
	due := time.Now().Add(-time.Minute)
	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
		ok, err := inbox.Park(t.Context(), tx, k, head, due)
		require.True(t, ok)
		return err
	}))
	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
		ok, err := inbox.Park(t.Context(), tx, k, follower, due)
		require.False(t, ok)
		inbox.Follow(tx, k, follower)
		return err
	}))
	s, state, err := inbox.Begin(t.Context(), db, nil, []inbox.Key{k, {Consumer: 1, Bytes: "free"}, {Consumer: 2, Bytes: k.Bytes}})
	require.NoError(t, err)
	require.Equal(t, map[inbox.Key]inbox.Parked{k: {Head: head.ID, Attempt: 1}}, state.Parked)
	inbox.Finish(s.Tx(), k, head.ID)
	require.NoError(t, s.Commit(t.Context()))

	parked, events, found, err := inbox.Waiting(t.Context(), pool, k, 10)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, inbox.Parked{}, parked)
	require.Len(t, events, 1)
	require.Equal(t, follower.ID, events[0].ID)

	depth, err := inbox.Measure(t.Context(), pool, 1)
	require.NoError(t, err)
	require.Equal(t, inbox.Depth{Keys: 1, Events: 1, Hot: map[inbox.Key]int64{k: 1}}, depth)

	stopped, err := inbox.Stopped(t.Context(), pool, time.Hour, 10)
	require.NoError(t, err)
	require.Empty(t, stopped, "it is leased to who finished the head")
	_, err = pool.Exec(t.Context(), `update msg.parked_keys set lease_until = '-infinity'`)
	require.NoError(t, err)
	stopped, err = inbox.Stopped(t.Context(), pool, time.Hour, 10)
	require.NoError(t, err)
	require.Equal(t, []inbox.Key{k}, stopped)

	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
		all, err := inbox.Take(t.Context(), tx, k, events)
		require.True(t, all)
		inbox.Release(tx, k)
		return err
	}))
	_, _, found, err = inbox.Waiting(t.Context(), pool, k, 10)
	require.NoError(t, err)
	require.False(t, found)
	require.NoError(t, db.InTx(t.Context(), func(tx *outbox.Tx) error {
		all, err := inbox.Take(t.Context(), tx, k, events)
		require.False(t, all, "somebody has it")
		return err
	}))
}

func TestParkingKey(t *testing.T) {
	t.Parallel()
	_, ok := inbox.ParkingKey(nil)
	require.False(t, ok)
	empty, ok := inbox.ParkingKey([]byte{})
	require.True(t, ok)
	require.Empty(t, empty)
	long, _ := inbox.ParkingKey(make([]byte, 1<<20))
	other, _ := inbox.ParkingKey(make([]byte, 1<<20+1))
	require.Less(t, len(long), 100)
	require.NotEqual(t, long, other)
}

func TestRecentForgetsTheOldest(t *testing.T) {
	t.Parallel()
	r, all := inbox.NewRecent(3), claims(5)
	for i, c := range all {
		require.False(t, r.Has(c))
		r.Add(c)
		r.Add(c)
		require.True(t, r.Has(c))
		if i >= 3 {
			require.False(t, r.Has(all[i-3]))
		}
	}
	require.True(t, r.Has(all[2]))
}

func TestTimeOf(t *testing.T) {
	t.Parallel()
	at, ok := inbox.TimeOf(uuid.Must(uuid.NewV7()))
	require.True(t, ok)
	require.WithinDuration(t, time.Now(), at, time.Second)
	_, ok = inbox.TimeOf(uuid.New())
	require.False(t, ok)
}

// Each statement looks its rows up, however large the tables have become: with
// many old claims, many parked keys that are due, and many events behind one.
func TestNoStatementReadsOrSortsAWholeTable(t *testing.T) {
	_, pool := setup(t)
	_, err := pool.Exec(t.Context(), `
		insert into msg.processed_events (consumer, event_id, attempt, at) select 1, gen_random_uuid(), 0, now() - interval '1 day' from generate_series(1, 50000);
		insert into msg.parked_keys (consumer, key, head_event, head_due) select 1, n::text::bytea, gen_random_uuid(), now() - interval '1 day' from generate_series(1, 20000) n;
		insert into msg.parked_events (consumer, key, event_id, topic, partition, "offset", headers) select 1, n::text::bytea, gen_random_uuid(), 't', 0, n, '' from generate_series(1, 20000) n;
		insert into msg.parked_events (consumer, key, event_id, topic, partition, "offset", headers) select 1, '7', gen_random_uuid(), 't', 0, n, '' from generate_series(1, 10000) n`)
	require.NoError(t, err)
	plans := pgtest.Watch(t, pool)
	db, ctx := outbox.NewDB(plans.Pool, nil), t.Context()
	k := inbox.Key{Consumer: 1, Bytes: "7"}
	all := claims(3)
	e := inbox.Event{ID: all[0].Event, Topic: "t", Time: time.Now()}

	_, _, err = inbox.Look(ctx, plans.Pool, all, []inbox.Key{k})
	require.NoError(t, err)
	s, _, err := inbox.Begin(ctx, db, all, []inbox.Key{k})
	require.NoError(t, err)
	_, err = inbox.Park(ctx, s.Tx(), inbox.Key{Consumer: 2, Bytes: "new"}, e, time.Now())
	require.NoError(t, err)
	inbox.Follow(s.Tx(), k, e)
	_, err = inbox.Repark(ctx, s.Tx(), k, e, time.Now())
	require.NoError(t, err)
	inbox.Finish(s.Tx(), k, e.ID)
	_, events, _, err := inbox.Waiting(ctx, plans.Pool, k, 50)
	require.NoError(t, err)
	_, err = inbox.Take(ctx, s.Tx(), k, events)
	require.NoError(t, err)
	require.NoError(t, s.Commit(ctx))
	_, err = inbox.Stopped(ctx, plans.Pool, time.Minute, 100)
	require.NoError(t, err)
	_, err = inbox.Prune(ctx, plans.Pool, 1, time.Now(), time.Hour, 5000)
	require.NoError(t, err)
	require.Equal(t, 15, plans.Require(t))
}
