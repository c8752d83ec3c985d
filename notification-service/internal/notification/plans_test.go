package notification

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// However many notifications there are, a user's or others', each statement of a
// use case looks its rows up.
func TestNoStatementReadsOrSortsAWholeTable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	user := newUser()
	f.register(user)
	f.place(user)
	_, err := f.pool.Exec(t.Context(), `
		insert into contacts (user_id) select gen_random_uuid() from generate_series(1, 5000);
		insert into notifications (id, user_id, seq, kind, event_id, title, body, created_at, read_at)
			select gen_random_uuid(), u, n, 'order_placed', gen_random_uuid(), 't', 'b', now(), case when n % 2 = 0 then now() end
			from (select user_id as u from contacts limit 20) c, generate_series(100, 1000) n;
		insert into notifications (id, user_id, seq, kind, event_id, title, body, created_at)
			select gen_random_uuid(), user_id, 2000, 'welcome', gen_random_uuid(), 't', 'b', now() from contacts where user_id <> '`+user.String()+`';
		insert into deliveries select id, user_id, 'waiting', 'log', now() from notifications where user_id <> '`+user.String()+`'`)
	require.NoError(t, err)
	plans := pgtest.Watch(t, f.pool)
	f.Service = NewService(outbox.NewDB(plans.Pool, nil), nil, f.out)
	ctx := t.Context()

	f.place(user)
	f.register(user)
	another := newUser()
	f.place(another)
	f.register(another)
	for _, r := range f.requests() {
		f.attempt(r)
	}
	var first uuid.UUID
	for _, unread := range []bool{false, true} {
		list, err := f.List(ctx, user, 900, unread, 20)
		require.NoError(t, err)
		first = list[0].ID
	}
	require.NoError(t, f.MarkRead(ctx, user, first))
	for _, follow := range []func() (*Follower, error){
		func() (*Follower, error) { return f.Follow(ctx, user) },
		func() (*Follower, error) { return f.Resume(ctx, user, 500) },
	} {
		follower, err := follow()
		require.NoError(t, err)
		_, _, err = follower.Next(ctx)
		require.NoError(t, err)
	}
	require.Greater(t, plans.Require(t), 10)
}
