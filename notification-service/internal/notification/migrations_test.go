package notification

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMigrationsCanBeTakenBack(t *testing.T) {
	t.Parallel()
	pgtest.DownAndUp(t, Migrations)
}

func TestTablesThatGrowHaveSmallSamples(t *testing.T) {
	t.Parallel()
	pgtest.SmallSamples(t, pgtest.New(t, Migrations), "notifications", "deliveries")
}

// Notifications nobody had looked at had no number before migration 4.
func TestMigrationNumbersWhatHasNoNumber(t *testing.T) {
	t.Parallel()
	before := fstest.MapFS{}
	require.NoError(t, fs.WalkDir(Migrations, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path >= "migrations/00004" {
			return err
		}
		data, err := Migrations.ReadFile(path)
		before[path] = &fstest.MapFile{Data: data}
		return err
	}))
	pool := pgtest.New(t, before)
	some, none, newcomer := newUser(), newUser(), newUser()
	_, err := pool.Exec(t.Context(), `insert into contacts (user_id) values ('`+some.String()+`'), ('`+none.String()+`'), ('`+newcomer.String()+`')`)
	require.NoError(t, err)
	number := func(id string, user uuid.UUID, seq *int) {
		_, err := pool.Exec(t.Context(), `
			insert into notifications (id, user_id, seq, kind, event_id, title, body, created_at)
			values ($1, $2, $3, 'order_placed', $1, 't', 'b', now())`, "00000000-0000-0000-0000-00000000000"+id, user, seq)
		require.NoError(t, err)
	}
	seven := 7
	number("1", some, nil)
	number("2", some, &seven)
	number("3", some, nil)
	number("4", none, nil)
	require.NoError(t, postgres.Migrate(t.Context(), pool, Migrations))
	var seqs []int
	require.NoError(t, pool.QueryRow(t.Context(), `select array_agg(seq order by id) from notifications`).Scan(&seqs))
	require.Equal(t, []int{8, 7, 9, 1}, seqs)

	number("5", some, nil) // as a replica of the version before does
	number("6", newcomer, nil)
	require.NoError(t, pool.QueryRow(t.Context(), `select array_agg(seq order by id) from notifications where id > (select id from notifications where user_id = $1)`, none).Scan(&seqs))
	require.Equal(t, []int{10, 1}, seqs)
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(context.Background()) }()
	_, err = holder.Exec(t.Context(), `select pg_advisory_xact_lock($1)`, lockOf(some))
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `set lock_timeout = '10ms'; insert into notifications (id, user_id, kind, event_id, title, body, created_at)
		values (gen_random_uuid(), '`+some.String()+`', 'welcome', gen_random_uuid(), 't', 'b', now())`)
	require.ErrorContains(t, err, "55P03", "the lock is the same")
}
