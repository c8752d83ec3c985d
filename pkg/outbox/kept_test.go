package outbox_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestWhatATransactionKeepsEndsWithIt(t *testing.T) {
	t.Parallel()
	db, ctx := newDB(t), t.Context()
	type words map[string]int
	type number int
	runs := 0
	require.NoError(t, db.InTx(ctx, func(tx *outbox.Tx) error {
		runs++
		require.Nil(t, *outbox.Kept[words](tx), "a transaction that is run again begins without")
		*outbox.Kept[words](tx) = words{"a": 1}
		(*outbox.Kept[words](tx))["b"] = 2
		*outbox.Kept[number](tx) += 5
		if runs == 1 {
			return &pgconn.PgError{Code: "40001"} // it lost against another one
		}
		require.Equal(t, words{"a": 1, "b": 2}, *outbox.Kept[words](tx))
		require.Equal(t, number(5), *outbox.Kept[number](tx))
		require.Zero(t, *outbox.Kept[int](tx), "each type has its own")
		return nil
	}))
	require.Equal(t, 2, runs)
}
