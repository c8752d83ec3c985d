package auth

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// However many users, sessions and tokens there are, and however many of them
// have ended, each statement of a use case looks its rows up.
func TestNoStatementReadsOrSortsAWholeTable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ann := f.register(t, "ann@example.com")
	first := f.login(t, "ann@example.com")
	f.exec(t, `
		insert into users select (jsonb_populate_record(u, jsonb_build_object('id', gen_random_uuid(), 'email', n || '@example.com', 'email_key', n || '@example.com'))).*
			from users u, generate_series(1, 1500) n where u.email = 'ann@example.com';
		insert into sessions select (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid(), 'user_id', u.id,
				'expires_at', case when u.id::text < '8' then now() - interval '1 day' else s.expires_at end))).*
			from sessions s, users u, generate_series(1, 3);
		insert into refresh_tokens select sha256(id::text::bytea), id, created_at, expires_at from sessions
			where not exists (select from refresh_tokens r where r.session_id = sessions.id);
		insert into login_failures select sha256(n::text::bytea), 1, now() - n * interval '1 minute' from generate_series(1, 5000) n;
		insert into audit_log (at, kind, ip, user_agent) select now() - n * interval '1 hour', 'login', '', '' from generate_series(1, 5000) n`)
	plans := pgtest.Watch(t, f.db.Pool)
	f.db = outbox.NewDB(plans.Pool, nil)
	ctx := t.Context()

	f.register(t, "bob@example.com")
	_, err := f.Login(ctx, "ann@example.com", "not it", home)
	require.Error(t, err)
	tokens := f.login(t, "ann@example.com")
	tokens, err = f.Refresh(ctx, tokens.Refresh, home)
	require.NoError(t, err)
	list, err := f.Sessions(ctx, ann.ID, uuid.Nil, 20)
	require.NoError(t, err)
	require.NoError(t, f.EndSession(ctx, ann.ID, list[1].ID, home))
	require.NoError(t, f.ChangePassword(ctx, ann.ID, list[0].ID, good, good+"!", home))
	require.NoError(t, f.Logout(ctx, tokens.Refresh, home))
	require.NoError(t, f.Logout(ctx, first.Refresh, home))
	_, err = f.User(ctx, ann.ID)
	require.NoError(t, err)
	_, err = f.Users(ctx, "", uuid.Nil, 20)
	require.NoError(t, err)
	found, err := f.Users(ctx, "ANN@example.com", uuid.Nil, 20)
	require.NoError(t, err)
	require.Len(t, found, 1)
	_, err = prune(ctx, plans.Pool, f.now())
	require.NoError(t, err)
	require.Greater(t, plans.Require(t), 20)
}
