//go:build unix

package saga

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
)

// stages of an order, by the clocks of the rows that record them. All
// processes share one clock.
var stages = []string{"payment begun", "intent made", "charged", "paid", "confirmed", "notified of placing", "of paying", "of confirming"}

// way adds to result how long after its order's creation each stage came, the
// median over the orders.
func (d databases) way(ctx context.Context, ids []string, result measure.Result) error {
	created, err := moments(ctx, d[inOrder], `select id::text, created_at from orders where id = any($1::text[]::uuid[])`, ids)
	if err != nil {
		return err
	}
	notified := func(kind string) string {
		return `select order_id::text, created_at from notifications where order_id = any($1::text[]::uuid[]) and kind = '` + kind + `'`
	}
	for i, q := range []struct {
		in  int
		sql string
	}{
		{inPayment, `select order_id::text, created_at from payments where order_id = any($1::text[]::uuid[])`},
		{inPayment, `select key, created_at from simulator.intents where key = any($1)`},
		{inPayment, `select key, at from simulator.charges where key = any($1)`},
		{inOrder, `select order_id::text, at from timeline where order_id = any($1::text[]::uuid[]) and kind = 'payment.completed'`},
		{inOrder, `select order_id::text, at from timeline where order_id = any($1::text[]::uuid[]) and kind = 'order.status_changed'`},
		{inNotification, notified("order_placed")},
		{inNotification, notified("payment_completed")},
		{inNotification, notified("order_confirmed")},
	} {
		at, err := moments(ctx, d[q.in], q.sql, ids)
		if err != nil {
			return err
		}
		var l measure.Latencies
		for id, then := range at {
			l.Add(then.Sub(created[id]))
		}
		result[stages[i]] = l.Quantile(0.5)
	}
	return nil
}

func moments(ctx context.Context, pool *pgxpool.Pool, sql string, ids []string) (map[string]time.Time, error) {
	rows, err := pool.Query(ctx, sql, ids)
	if err != nil {
		return nil, err
	}
	at := map[string]time.Time{}
	var id string
	var then time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &then}, func() error {
		at[id] = then
		return nil
	})
	return at, err
}
