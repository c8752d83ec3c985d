package payment_test

import (
	"log/slog"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// However many payments there are, and however many refunds are due, each
// statement of a use case looks its rows up.
func TestNoStatementReadsOrSortsAWholeTable(t *testing.T) {
	f := setup(t)
	_, err := f.pool.Exec(t.Context(), `
		insert into payments (id, order_id, customer_id, amount, currency, method, provider, provider_ref, status, refund_due_at, created_at, updated_at)
		select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 100, 'EUR', 'pm_card_visa', $1, 'r' || n,
			case when n % 4 = 0 then 'refund_pending' else 'completed' end, case when n % 4 = 0 then now() - n * interval '1 minute' end, now(), now()
		from generate_series(1, 20000) n`, simulator.Name)
	require.NoError(t, err)
	plans := pgtest.Watch(t, f.pool)
	f.db = outbox.NewDB(plans.Pool, nil)
	f.Service, err = payment.NewService(f.db, f.provider, config, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), f.clock.Now)
	require.NoError(t, err)
	ctx := t.Context()

	paid, refused, early := order(simulator.Visa), order(simulator.Declined), order(simulator.Visa)
	f.created(paid)
	f.created(refused)
	f.cancel(early)
	f.created(early)
	list, err := f.OfOrder(ctx, payment.Actor{Admin: true}, paid.OrderID)
	require.NoError(t, err)
	_, err = f.Get(ctx, payment.Actor{Admin: true}, list[0].ID)
	require.NoError(t, err)
	f.tx(func(tx *outbox.Tx) error { return f.Lock(ctx, tx, []uuid.UUID{paid.OrderID, refused.OrderID}) })
	f.cancel(paid)
	f.release(paid)
	_, err = f.SweepRefunds(ctx)
	require.NoError(t, err)
	require.Greater(t, plans.Require(t), 10)
}
