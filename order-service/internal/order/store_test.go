package order

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// What no code of this service writes, the database refuses from anybody.
func TestTheDatabaseHoldsTheOrdersRules(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations)
	_, err := pool.Exec(t.Context(), `insert into orders (id, customer_id, restaurant_id, restaurant_name, status, items, total, currency,
			delivery_address, payment_method, notes, payment_deadline, created_at, updated_at)
		values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'Spice', 'pending', '[]', 1900, 'EUR', '{}', 'card', '', now(), now(), now())`)
	require.NoError(t, err)
	for set, sound := range map[string]bool{
		`status = 'lost'`: false,
		`total = 0`:       false,
		`status = 'cancelled', cancel_reason = 'customer'`: true,
		`status = 'cancelled'`:                             false,
		`cancel_reason = 'customer'`:                       false,
		`status = 'delivered'`:                             true,
	} {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `update orders set `+set)
		require.NoError(t, tx.Rollback(t.Context()))
		if sound {
			require.NoError(t, err, set)
			continue
		}
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused, set)
		require.Equal(t, "orders_sound", refused.ConstraintName, set)
	}
}
