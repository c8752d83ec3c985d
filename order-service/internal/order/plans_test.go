package order

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

// However many orders there are, and however many of them are overdue, each
// statement of a use case looks its rows up.
func TestNoStatementReadsOrSortsAWholeTable(t *testing.T) {
	t.Parallel()
	w := setup(t)
	first, paid := w.place(), w.place()
	_, err := w.db.Pool.Exec(t.Context(), `
		insert into orders select (jsonb_populate_record(o, jsonb_build_object('id', gen_random_uuid(),
				'customer_id', case when n % 10 = 0 then o.customer_id else gen_random_uuid() end, 'payment_deadline', o.payment_deadline - n * interval '1 hour',
				'status', case when n % 2 = 0 then 'pending' else 'preparing' end))).*
			from orders o, generate_series(1, 2500) n where o.id = '`+first.ID.String()+`';
		insert into timeline select (jsonb_populate_record(t, jsonb_build_object('order_id', o.id))).* from timeline t, orders o
			where t.order_id = '`+first.ID.String()+`' on conflict do nothing;
		insert into idempotency_keys select gen_random_uuid(), 'k', '', gen_random_uuid(), now() - interval '30 days' from generate_series(1, 10000);
		insert into restaurants select (jsonb_populate_record(r, jsonb_build_object('id', gen_random_uuid(), 'name', 'r' || n))).*
			from restaurants r, generate_series(1, 5000) n where r.id = (select id from restaurants limit 1);
		insert into menu_items select (jsonb_populate_record(m, jsonb_build_object('id', gen_random_uuid(), 'restaurant_id', r.id))).*
			from menu_items m, restaurants r where m.id = (select id from menu_items limit 1) and r.name ~ '^r'`)
	require.NoError(t, err)
	plans := pgtest.Watch(t, w.db.Pool)
	w.db = outbox.NewDB(plans.Pool, nil)
	ctx := t.Context()

	_, err = w.Place(ctx, someCustomer, "a key", demoPlacement())
	require.NoError(t, err)
	for _, f := range []Filter{{Limit: 20}, {Status: "preparing", Limit: 20}, {CustomerID: someCustomer, Limit: 20}, {CustomerID: someCustomer, Status: "pending", Limit: 20}} {
		_, err = w.List(ctx, f)
		require.NoError(t, err)
	}
	w.get(first.ID)
	w.timeline(first.ID)
	require.NoError(t, w.db.InTx(ctx, func(tx *outbox.Tx) error { return w.Lock(ctx, tx, []uuid.UUID{first.ID, paid.ID}) }))
	require.NoError(t, w.completed(paid))
	_, err = w.SetStatus(ctx, paid.ID, "preparing")
	require.NoError(t, err)
	_, err = w.Cancel(ctx, Actor{ID: someCustomer}, first.ID)
	require.NoError(t, err)
	require.NoError(t, w.refunded(paid))
	_, err = w.CancelOverdue(ctx)
	require.NoError(t, err)
	_, err = w.PruneKeys(ctx)
	require.NoError(t, err)
	_, err = w.Restaurants(ctx, uuid.Nil, 20)
	require.NoError(t, err)
	_, err = w.Restaurant(ctx, demoID("001"))
	require.NoError(t, err)
	require.Greater(t, plans.Require(t), 15)
}
