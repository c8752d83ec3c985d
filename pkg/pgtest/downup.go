//go:build unix

package pgtest

import (
	"database/sql"
	"io/fs"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// DownAndUp takes every migration back, the service's and then those of schema
// msg, and applies all of them again. It fails when one cannot be taken back or
// leaves something behind.
func DownAndUp(t testing.TB, service fs.FS) {
	t.Helper()
	pool := New(t, service)
	own, err := postgres.ServiceMigrations(service)
	require.NoError(t, err)
	db := stdlib.OpenDBFromPool(pool)
	defer func() { require.NoError(t, db.Close()) }()
	if own != nil {
		down(t, db, own, "public.goose_db_version")
	}
	down(t, db, postgres.MessagingMigrations(), "msg.goose_version")

	var left []string
	require.NoError(t, pool.QueryRow(t.Context(), `select coalesce(array_agg(n.nspname || '.' || c.relname order by 1), '{}')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname !~ '^(pg_|information_schema$)' and c.relname !~ '^goose_'`).Scan(&left))
	require.Empty(t, left, "left behind")
	require.NoError(t, postgres.Migrate(t.Context(), pool, service))
}

func down(t testing.TB, db *sql.DB, files fs.FS, table string) {
	t.Helper()
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(table), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	require.NoError(t, err)
	_, err = p.DownTo(t.Context(), 0)
	require.NoError(t, err)
}
