package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// querier is a pool or a transaction, for reads.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const orderColumns = `id, customer_id, restaurant_id, restaurant_name, status, items, total, currency,
	delivery_address, payment_method, notes, cancel_reason, cancel_code, payment_deadline, created_at, updated_at`

func scanOrder(row pgx.CollectableRow) (Order, error) {
	o, err := pgx.RowToStructByName[Order](row)
	o.PaymentDeadline, o.CreatedAt, o.UpdatedAt = o.PaymentDeadline.UTC(), o.CreatedAt.UTC(), o.UpdatedAt.UTC()
	return o, err
}

func oneOrder(rows pgx.Rows, err error) (Order, error) {
	if err != nil {
		return Order{}, fmt.Errorf("read order: %w", err)
	}
	o, err := pgx.CollectExactlyOneRow(rows, scanOrder)
	if errors.Is(err, pgx.ErrNoRows) {
		return Order{}, errNoOrder()
	}
	if err != nil {
		return Order{}, fmt.Errorf("read order: %w", err)
	}
	return o, nil
}

func manyOrders(rows pgx.Rows, err error) ([]Order, error) {
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanOrder)
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return list, nil
}

// errNoOrder is also the answer to whoever asks for somebody else's order.
func errNoOrder() error { return errs.New(errs.NotFound, "there is no order with this id") }

func findOrder(ctx context.Context, q querier, id uuid.UUID) (Order, error) {
	return oneOrder(q.Query(ctx, `select `+orderColumns+` from orders where id = $1`, id))
}

// lockOrder reads an order and keeps others from changing it, or from writing
// to its timeline, until the transaction ends.
func lockOrder(ctx context.Context, tx *outbox.Tx, id uuid.UUID) (Order, error) {
	if o, ok := outbox.Kept[Order](tx, id); ok {
		return o, nil
	}
	return oneOrder(tx.Query(ctx, `select `+orderColumns+` from orders where id = $1 for update`, id))
}

// lockOrders does for many what lockOrder does then without a statement of its
// own. It locks in the order of ids and leaves out those that are not there.
func lockOrders(ctx context.Context, tx *outbox.Tx, ids []uuid.UUID) error {
	list, err := manyOrders(tx.Query(ctx, `select o.* from unnest($1::uuid[]) as u (id) cross join lateral (
			select `+orderColumns+` from orders where id = u.id limit 1 for update
		) o`, ids))
	if err != nil {
		return err
	}
	for _, o := range list {
		outbox.Keep(tx, o.ID, o)
	}
	return nil
}

// lockOverdue locks orders that are past their payment deadline, the longest
// overdue first. Orders that somebody else is working on are left to them.
func lockOverdue(ctx context.Context, tx *outbox.Tx, now time.Time, limit int) ([]Order, error) {
	return manyOrders(tx.Query(ctx, `select `+orderColumns+` from orders
		where status = 'pending' and payment_deadline <= $1
		order by payment_deadline limit $2 for update skip locked`, now, limit))
}

// listOrders lists newest first. Each combination has its own statement, so
// that each is one walk along one index.
func listOrders(ctx context.Context, q querier, f Filter) ([]Order, error) {
	before := f.Before
	if before == uuid.Nil {
		before = uuid.Max
	}
	switch {
	case f.CustomerID != uuid.Nil:
		return manyOrders(q.Query(ctx, `select `+orderColumns+` from orders
			where customer_id = $1 and id < $2 and ($3 = '' or status = $3) order by id desc limit $4`,
			f.CustomerID, before, f.Status, f.Limit))
	case f.Status != "":
		return manyOrders(q.Query(ctx, `select `+orderColumns+` from orders
			where status = $1 and id < $2 order by id desc limit $3`, f.Status, before, f.Limit))
	default:
		return manyOrders(q.Query(ctx, `select `+orderColumns+` from orders
			where id < $1 order by id desc limit $2`, before, f.Limit))
	}
}

func insertOrder(tx *outbox.Tx, o Order) {
	tx.Queue(`insert into orders (`+orderColumns+`) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		o.ID, o.CustomerID, o.RestaurantID, o.RestaurantName, o.Status, o.Items, o.Total, o.Currency,
		o.DeliveryAddress, o.PaymentMethod, o.Notes, o.CancelReason, o.CancelCode, o.PaymentDeadline, o.CreatedAt, o.UpdatedAt)
}

// updateStatus stores what Order.move changes; the order's row is locked.
func updateStatus(tx *outbox.Tx, o Order) {
	outbox.Keep(tx, o.ID, o)
	tx.Queue(`update orders set status = $2, cancel_reason = $3, cancel_code = $4, updated_at = $5 where id = $1`,
		o.ID, o.Status, o.CancelReason, o.CancelCode, o.UpdatedAt)
}

// appendTimeline adds an entry under the next number; the order's row is
// locked, which is what makes the number the next. A fact that happens once and
// is on the timeline already, told again under another event id, is left out.
func appendTimeline(tx *outbox.Tx, order uuid.UUID, e Entry) {
	tx.Queue(`insert into timeline (order_id, seq, at, kind, detail, event_id)
		select $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5 from timeline where order_id = $1
		on conflict (order_id, kind) where kind <> 'order.status_changed' do nothing`,
		order, e.At, e.Kind, e.Detail, e.EventID)
}

func listTimeline(ctx context.Context, q querier, order uuid.UUID, after int64) ([]Entry, error) {
	rows, err := q.Query(ctx, `select seq, at, kind, detail, event_id from timeline
		where order_id = $1 and seq > $2 order by seq`, order, after)
	if err != nil {
		return nil, fmt.Errorf("read timeline: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Entry, error) {
		e, err := pgx.RowToStructByName[Entry](row)
		e.At = e.At.UTC()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read timeline: %w", err)
	}
	return list, nil
}

// lockKey claims an Idempotency-Key until the transaction ends; false: another
// request with this key is running. The lock is a number derived from the key,
// not a row, because there is none to lock before the first request ends.
func lockKey(ctx context.Context, tx *outbox.Tx, number int64) (bool, error) {
	var got bool
	if err := tx.QueryRow(ctx, `select pg_try_advisory_xact_lock($1)`, number).Scan(&got); err != nil {
		return false, fmt.Errorf("lock idempotency key: %w", err)
	}
	return got, nil
}

// findKey gives the order that was placed with a key after since, uuid.Nil if
// there is none, and the hash of what was asked for.
func findKey(ctx context.Context, tx *outbox.Tx, customer uuid.UUID, key string, since time.Time) (order uuid.UUID, hash []byte, err error) {
	err = tx.QueryRow(ctx, `select order_id, request_hash from idempotency_keys
		where customer_id = $1 and key = $2 and created_at > $3`, customer, key, since).Scan(&order, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, nil, nil
	}
	if err != nil {
		return uuid.Nil, nil, fmt.Errorf("read idempotency key: %w", err)
	}
	return order, hash, nil
}

// insertKey remembers a key; the row of an expired one may still be there.
func insertKey(tx *outbox.Tx, customer uuid.UUID, key string, hash []byte, order uuid.UUID, now time.Time) {
	tx.Queue(`insert into idempotency_keys (customer_id, key, request_hash, order_id, created_at) values ($1, $2, $3, $4, $5)
		on conflict (customer_id, key) do update set request_hash = excluded.request_hash,
			order_id = excluded.order_id, created_at = excluded.created_at`, customer, key, hash, order, now)
}

// deleteKeys forgets up to limit keys that are not newer than before.
func deleteKeys(ctx context.Context, tx *outbox.Tx, before time.Time, limit int) (int, error) {
	tag, err := tx.Exec(ctx, `delete from idempotency_keys where ctid = any(array(
		select ctid from idempotency_keys where created_at <= $1 order by created_at limit $2 for update skip locked))`, before, limit)
	if err != nil {
		return 0, fmt.Errorf("delete idempotency keys: %w", err)
	}
	return int(tag.RowsAffected()), nil
}
