package pgtest

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Rules holds a CHECK to what it is for: of the changes to the only row of table,
// what follows SET in an update, it lets those pass that are true and refuses the
// others. Each is taken back.
func Rules(t testing.TB, pool *pgxpool.Pool, table, constraint string, changes map[string]bool) {
	t.Helper()
	for set, sound := range changes {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		done, err := tx.Exec(t.Context(), `update `+table+` set `+set)
		require.NoError(t, tx.Rollback(t.Context()))
		if sound {
			require.NoError(t, err, set)
			require.EqualValues(t, 1, done.RowsAffected(), set)
			continue
		}
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, set)
		require.Equal(t, constraint, refused.ConstraintName, set)
	}
}
