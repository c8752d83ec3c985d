package order

import (
	"testing"

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
	pgtest.Rules(t, pool, "orders", "orders_sound", map[string]bool{
		`status = 'lost'`: false,
		`total = 0`:       false,
		`status = 'cancelled', cancel_reason = 'customer'`: true,
		`status = 'cancelled'`:                             false,
		`cancel_reason = 'customer'`:                       false,
		`status = 'delivered'`:                             true,
	})
}
