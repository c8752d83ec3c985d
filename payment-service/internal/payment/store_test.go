package payment

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// Charges that run at the same time share their writes; each gets its own.
func TestWritesOfSeveralCharges(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations)
	now := time.Now().UTC().Truncate(time.Microsecond)
	pending := func() Payment {
		return Payment{
			ID: uuid.Must(uuid.NewV7()), OrderID: uuid.Must(uuid.NewV7()), CustomerID: uuid.New(), Amount: 1900, Currency: "EUR",
			Method: "card", Provider: "simulator", Status: Pending, CreatedAt: now, UpdatedAt: now,
		}
	}
	tombstone := pending()
	require.NoError(t, outbox.NewDB(pool, nil).InTx(t.Context(), func(tx *outbox.Tx) error {
		_, err := insertTombstone(t.Context(), tx, tombstone)
		return err
	}))
	a, b, c := pending(), pending(), pending()
	_, err := begin(t.Context(), pool, []Payment{a})
	require.NoError(t, err)
	again, twice := a, b
	again.ID, twice.ID = uuid.New(), uuid.New()

	got, err := begin(t.Context(), pool, []Payment{c, again, b, tombstone, twice})
	require.NoError(t, err)
	require.Equal(t, []Payment{c, a, b}, got[:3], "in the order asked for, the first of each order")
	require.Equal(t, Voided, got[3].Status)
	require.Equal(t, b, got[4])

	at := now.Add(time.Second)
	refs, err := storeRefs(t.Context(), pool, []reference{{a.ID, "ref-a", at}})
	require.NoError(t, err)
	require.Equal(t, []string{"ref-a"}, refs)
	refs, err = storeRefs(t.Context(), pool, []reference{{b.ID, "ref-b", at}, {tombstone.ID, "ref-t", at}, {a.ID, "later", at}, {c.ID, "ref-c", at}})
	require.NoError(t, err)
	require.Equal(t, []string{"ref-b", "", "ref-a", "ref-c"}, refs)
	stored, err := current(t.Context(), pool, b.OrderID)
	require.NoError(t, err)
	require.Equal(t, "ref-b", stored.ProviderRef)
	require.Equal(t, at, stored.UpdatedAt)
}

// What no code of this service writes, the database refuses from anybody.
func TestTheDatabaseHoldsThePaymentsRules(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations)
	_, err := pool.Exec(t.Context(), `insert into payments (id, order_id, customer_id, amount, currency, method, provider, status, created_at, updated_at)
		values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1900, 'EUR', 'card', 'simulator', 'pending', now(), now())`)
	require.NoError(t, err)
	pgtest.Rules(t, pool, "payments", "payments_sound", map[string]bool{
		`status = 'lost'`:   false,
		`amount = 0`:        false,
		`currency = 'Euro'`: false,
		`status = 'voided', amount = 0, currency = ''`:     true,
		`amount = 0, currency = ''`:                        false,
		`status = 'failed'`:                                false,
		`status = 'failed', failure_code = 'declined'`:     true,
		`failure_code = 'declined'`:                        false,
		`status = 'completed'`:                             false,
		`status = 'completed', provider_ref = 'r'`:         true,
		`status = 'refunded'`:                              false,
		`status = 'refund_pending', provider_ref = 'r'`:    false,
		`status = 'refund_pending', refund_due_at = now()`: false,
		`cancel_requested = true`:                          false,
		`cancel_requested = true, refund_due_at = now()`:   true,
		`refund_due_at = now()`:                            false,
		`status = 'refunded', provider_ref = 'r'`:          true,
		`status = 'voided', cancel_requested = true`:       true,
		`status = 'pending', cancel_requested = false`:     true,
	})
}
