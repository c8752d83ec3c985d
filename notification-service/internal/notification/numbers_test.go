package notification

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestBatchesThatTellTheSameUsersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	users := make([]uuid.UUID, 20)
	for i := range users {
		users[i] = newUser()
		f.register(users[i])
	}
	reversed := slices.Clone(users)
	slices.Reverse(reversed)
	var runs atomic.Int64
	var wg sync.WaitGroup
	for _, order := range [][]uuid.UUID{users, reversed, users, reversed} {
		wg.Go(func() {
			for range 5 {
				f.tx(func(tx *outbox.Tx) error {
					runs.Add(1)
					for _, u := range order {
						if err := f.tell(tx, placed(u)); err != nil {
							return err
						}
						if _, err := tx.Exec(t.Context(), `select 1`); err != nil { // sends now what is queued
							return err
						}
					}
					return nil
				})
			}
		})
		wg.Go(func() {
			for _, u := range order {
				_, err := f.List(t.Context(), u, 0, false, 100)
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 20, runs.Load(), "no transaction had to run again")
	require.Equal(t, 20*21, f.count(`select count(*) from notifications`))
}

// Nor do those that hear of users whom nobody has registered yet.
func TestBatchesThatMakeTheSameContactsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const rounds, users = 20, 50
	var runs atomic.Int64
	for range rounds {
		forth := make([]uuid.UUID, users)
		for i := range forth {
			forth[i] = newUser()
		}
		back := slices.Clone(forth)
		slices.Reverse(back)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for _, order := range [][]uuid.UUID{forth, back} {
			wg.Go(func() {
				<-start
				f.tx(func(tx *outbox.Tx) error {
					runs.Add(1)
					for _, u := range order {
						if err := f.tell(tx, placed(u)); err != nil {
							return err
						}
					}
					return nil
				})
			})
		}
		close(start)
		wg.Wait()
	}
	require.EqualValues(t, 2*rounds, runs.Load(), "no transaction had to run again")
	require.Equal(t, rounds*users, f.count(`select count(*) from contacts`))
	require.Equal(t, 2*rounds*users, f.count(`select count(*) from notifications`))
}

// A batch that tells one user several things numbers them as they came.
func TestABatchNumbersAUsersNotificationsInOrder(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user, other := newUser(), newUser()
	f.place(user)
	var told []uuid.UUID
	f.tx(func(tx *outbox.Tx) error {
		for i := range 20 {
			p := placed([]uuid.UUID{user, other}[i%2])
			if i%2 == 0 {
				told = append(told, p.OrderID)
			}
			if err := f.tell(tx, p); err != nil {
				return err
			}
		}
		return nil
	})
	list, err := f.List(t.Context(), user, 0, false, 100)
	require.NoError(t, err)
	require.Len(t, list, 11)
	slices.Reverse(list)
	for i, n := range list {
		require.EqualValues(t, i+1, n.Seq)
		if i > 0 {
			require.Equal(t, told[i-1], *n.OrderID)
		}
	}
}

func TestAStreamMissesNothingWhileManyWrite(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	second, err := pgxpool.NewWithConfig(t.Context(), f.pool.Config())
	require.NoError(t, err)
	t.Cleanup(second.Close)
	replicas := []*Service{f.Service, NewService(outbox.NewDB(second, nil), nil, f.out)}

	const writers, each = 6, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			s := replicas[w%2]
			for range each {
				p := placed(user)
				n, err := OfOrderCreated(p)
				require.NoError(t, err)
				require.NoError(t, s.db.InTx(t.Context(), func(tx *outbox.Tx) error { return s.Notify(t.Context(), tx, newEvent(p), n) }))
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := make([][]int64, 4)
	for r := range seen {
		wg.Go(func() {
			follower, err := replicas[r%2].Follow(ctx, user)
			require.NoError(t, err)
			for len(seen[r]) < writers*each {
				list, _, err := follower.Next(ctx)
				require.NoError(t, err, "reader %d saw %d", r, len(seen[r]))
				for _, n := range list {
					seen[r] = append(seen[r], n.Seq)
				}
				if r == 3 { // comes back with where it was
					follower, err = replicas[0].Resume(ctx, user, follower.at.after)
					require.NoError(t, err)
				}
			}
		})
	}
	wg.Wait()
	for r := range seen {
		require.Len(t, seen[r], writers*each)
		require.True(t, slices.IsSorted(seen[r]), "reader %d", r)
		require.Len(t, slices.Compact(slices.Clone(seen[r])), writers*each, "reader %d saw one twice", r)
	}
}

// A number is taken when the one below it is committed, not before.
func TestNumbersAreTakenUnderTheUsersLock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.register(user)
	holder, err := f.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.Background()) }()
	_, err = holder.Exec(t.Context(), `select pg_advisory_xact_lock($1)`, lockOf(user))
	require.NoError(t, err)
	_, err = holder.Exec(t.Context(), nextNotifications,
		[]uuid.UUID{uuid.New()}, []uuid.UUID{user}, []Kind{OrderPlaced}, []uuid.UUID{uuid.New()}, []*uuid.UUID{nil}, []string{"title"}, []string{"body"}, []time.Time{time.Now()})
	require.NoError(t, err)

	var g errgroup.Group
	g.Go(func() error {
		return f.db.InTx(t.Context(), func(tx *outbox.Tx) error { return f.tell(tx, placed(user)) })
	})
	require.Eventually(t, func() bool {
		return f.count(`select count(*) from pg_locks l join pg_database d on d.oid = l.database
			where locktype = 'advisory' and not granted and datname = current_database()`) > 0
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, holder.Commit(t.Context()))
	require.NoError(t, g.Wait())
	list, err := f.List(t.Context(), user, 0, false, 10)
	require.NoError(t, err)
	require.Len(t, list, 3)
	for i, n := range list {
		require.EqualValues(t, 3-i, n.Seq)
	}
}

// Many streams look with one read: each gets its own.
func TestStreamsThatLookTogether(t *testing.T) {
	t.Parallel()
	f := setup(t)
	at := []position{{user: newUser()}, {user: newUser()}, {user: newUser()}}
	for i, p := range at {
		for range i { // none, one, two
			f.place(p.user)
		}
	}
	at = append(at, position{user: at[2].user, after: 1}) // the same user at two places
	lists, err := listAfter(t.Context(), f.pool, at, 10)
	require.NoError(t, err)
	seqs := make([][]int64, len(at))
	for i, list := range lists {
		for _, n := range list {
			seqs[i] = append(seqs[i], n.Seq)
		}
	}
	require.Equal(t, [][]int64{nil, {1}, {1, 2}, {2}}, seqs)
}

func TestWhereAStreamBegins(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	for range 4 {
		f.place(user)
	}
	list, err := f.List(t.Context(), user, 0, false, 10)
	require.NoError(t, err)
	require.NoError(t, f.MarkRead(t.Context(), user, list[2].ID)) // the second, as the newest comes first

	unread, err := f.Follow(t.Context(), user)
	require.NoError(t, err)
	followers := map[*Follower][]int64{unread: {1, 3, 4, 5}}
	for last, want := range map[int64][]int64{
		0:  {1, 2, 3, 4, 5}, // from the first, read or not
		1:  {2, 3, 4, 5},
		4:  {5},
		99: {5}, // a number that was never given
	} {
		resumed, err := f.Resume(t.Context(), user, last)
		require.NoError(t, err)
		followers[resumed] = want
	}
	f.place(user)
	for follower, want := range followers {
		got, more, err := follower.Next(t.Context())
		require.NoError(t, err)
		seqs := []int64{}
		for _, n := range got {
			seqs = append(seqs, n.Seq)
		}
		require.Equal(t, want, seqs)
		require.False(t, more)
		got, more, err = follower.Next(t.Context())
		require.NoError(t, err)
		require.Empty(t, got)
		require.False(t, more)
	}
}

func TestHotQueriesUseTheirIndexes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.register(user)
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), `set enable_seqscan = off`) // tiny tables: which index can be used, not which is worth it
	require.NoError(t, err)
	for sql, index := range map[string]string{
		`select id from notifications where user_id = $1 and seq < 9 order by seq desc limit 20`:                     "notifications_seq",
		`select id from notifications where user_id = $1 and seq < 9 and read_at is null order by seq desc limit 20`: "notifications_unread",
		`select id from notifications where user_id = $1 and seq > 9 and (seq > 5 or read_at is null) order by seq`:  "notifications_seq",
		`delete from deliveries where user_id = $1 and status = 'waiting' returning notification_id`:                 "deliveries_waiting",
	} {
		rows, err := conn.Query(t.Context(), `explain `+sql, user)
		require.NoError(t, err)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Contains(t, fmt.Sprint(plan), index, sql)
		require.NotContains(t, fmt.Sprint(plan), "Sort", sql)
	}
}

// A statement is planned once per connection, often while the tables are empty.
// It must look its rows up all the same when they have grown.
func TestPlansMadeOfEmptyTablesLookUp(t *testing.T) {
	t.Parallel()
	f := setup(t)
	conn, err := f.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = f.pool.Exec(t.Context(), `alter table notifications set (autovacuum_enabled = off); alter table contacts set (autovacuum_enabled = off)`)
	require.NoError(t, err) // statistics would make the plans anew
	user, other := uuid.NewString(), uuid.NewString()
	statements := map[string]string{
		nextNotifications: `(array[gen_random_uuid()], '{` + user + `}', '{order_placed}', array[gen_random_uuid()], array[null::uuid], '{t}', '{b}', array[now()])`,
		messagesByID:      `('{` + user + `}')`,
		newSince:          `('{` + user + `}', '{0}', '{0}', 10)`,
	}
	names := map[string]string{}
	for sql, args := range statements {
		name := fmt.Sprintf("s%d", len(names))
		names[sql] = name
		for _, sql := range []string{`prepare ` + name + ` as ` + sql, `explain execute ` + name + args} {
			_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
		}
	}
	const many = 2000
	_, err = f.pool.Exec(t.Context(), fmt.Sprintf(`
		insert into contacts (user_id) select gen_random_uuid() from generate_series(1, %d);
		insert into contacts (user_id) values ('%s'), ('%s');
		insert into notifications (id, user_id, seq, kind, event_id, title, body, created_at)
			select gen_random_uuid(), '%[3]s', n, 'order_placed', gen_random_uuid(), 't', 'b', now() from generate_series(1, %[1]d) n;
		insert into notifications (id, user_id, seq, kind, event_id, title, body, created_at)
			select gen_random_uuid(), '%[2]s', n, 'order_placed', gen_random_uuid(), 't', 'b', now() from generate_series(1, %[1]d) n;
		insert into notifications (id, user_id, seq, kind, event_id, title, body, created_at)
			values ('%[2]s', '%[2]s', %[1]d + 1, 'order_placed', gen_random_uuid(), 't', 'b', now())`, many, user, other))
	require.NoError(t, err)
	for sql, args := range statements {
		rows, err := conn.Query(t.Context(), `explain (analyze, timing off, costs off) execute `+names[sql]+args, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, line := range plan {
			for _, n := range regexp.MustCompile(`rows=(\d+)|Removed by [\w ]+: (\d+)`).FindAllStringSubmatch(line, -1) {
				read, err := strconv.Atoi(n[1] + n[2])
				require.NoError(t, err)
				require.Less(t, read, many, "%s\n%s", sql, strings.Join(plan, "\n"))
			}
		}
	}
}
