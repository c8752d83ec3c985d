package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// SmallSamples fails unless ANALYZE makes do with few rows of each of the
// tables: no column, those of later migrations included, asks for more.
func SmallSamples(t testing.TB, pool *pgxpool.Pool, tables ...string) {
	t.Helper()
	var greedy []string
	require.NoError(t, pool.QueryRow(t.Context(), `
		select coalesce(array_agg(attrelid::regclass || '.' || attname), '{}') from pg_attribute
		where attrelid = any($1::text[]::regclass[]) and attnum > 0 and not attisdropped
			and coalesce(attstattarget, -1) not between 0 and 10`, tables).Scan(&greedy))
	require.Empty(t, greedy, "call msg.sample for the table in the migration that adds the column")
}
