package outbox_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestWhatIsKeptEndsWithTheTransaction(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	type cook string
	type waiter string
	runs := 0
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		runs++
		_, ok := outbox.Kept[cook](tx, 1)
		require.False(t, ok, "a transaction that is run again begins without")
		outbox.Keep(tx, 1, cook("Ana"))
		outbox.Keep(tx, 1, waiter("Bo"))
		outbox.Keep(tx, 1, cook("Cem"))
		if runs == 1 {
			return &pgconn.PgError{Code: "40001"} // it lost against another one
		}
		c, ok := outbox.Kept[cook](tx, 1)
		require.True(t, ok)
		require.Equal(t, cook("Cem"), c, "the last one")
		w, ok := outbox.Kept[waiter](tx, 1)
		require.True(t, ok)
		require.Equal(t, waiter("Bo"), w, "each type is apart")
		_, ok = outbox.Kept[cook](tx, 2)
		require.False(t, ok)
		return nil
	}))
	require.Equal(t, 2, runs)
}
