package payment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

const columns = `id, order_id, customer_id, amount, currency, method, provider, coalesce(provider_ref, '') as provider_ref,
	status, cancel_requested, failure_code, failure_message, refund_asks, refund_due_at as refund_due, created_at, updated_at`

func scanPayment(row pgx.CollectableRow) (Payment, error) {
	p, err := pgx.RowToStructByName[Payment](row)
	p.CreatedAt, p.UpdatedAt = p.CreatedAt.UTC(), p.UpdatedAt.UTC()
	return p, err
}

// errNone is also the answer to whoever asks for somebody else's payment.
var errNone = errs.New(errs.NotFound, "there is no payment with this id")

func one(rows pgx.Rows, err error) (Payment, error) {
	if err != nil {
		return Payment{}, fmt.Errorf("read payment: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPayment)
	if errors.Is(err, pgx.ErrNoRows) {
		return Payment{}, errNone
	}
	if err != nil {
		return Payment{}, fmt.Errorf("read payment: %w", err)
	}
	return p, nil
}

func many(rows pgx.Rows, err error) ([]Payment, error) {
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanPayment)
	if err != nil {
		return nil, fmt.Errorf("list payments: %w", err)
	}
	return list, nil
}

// find reads a payment for a client. A tombstone is none: no payment was ever
// begun.
func find(ctx context.Context, q querier, id uuid.UUID) (Payment, error) {
	return one(q.Query(ctx, `select `+columns+` from payments where id = $1 and currency <> ''`, id))
}

// findOfOrder is find by the order's id.
func findOfOrder(ctx context.Context, q querier, order uuid.UUID) (Payment, error) {
	return one(q.Query(ctx, `select `+columns+` from payments where order_id = $1 and currency <> ''`, order))
}

// current reads an order's payment, be it a tombstone, without a lock.
func current(ctx context.Context, q querier, order uuid.UUID) (Payment, error) {
	return one(q.Query(ctx, `select `+columns+` from payments where order_id = $1`, order))
}

// lock reads an order's payment and keeps others from changing it until the
// transaction ends.
func lock(ctx context.Context, tx *outbox.Tx, order uuid.UUID) (Payment, error) {
	if p, ok := outbox.Kept[Payment](tx, order); ok {
		return p, nil
	}
	return one(tx.Query(ctx, `select `+columns+` from payments where order_id = $1 for update`, order))
}

// lockAll does for many what lock does then without a statement of its own. It
// locks in the order that is given and leaves out those that are not there.
func lockAll(ctx context.Context, tx *outbox.Tx, orders []uuid.UUID) error {
	list, err := many(tx.Query(ctx, `select p.* from unnest($1::uuid[]) as u (id) cross join lateral (
			select `+columns+` from payments where order_id = u.id limit 1 for update
		) p`, orders))
	if err != nil {
		return err
	}
	for _, p := range list {
		outbox.Keep(tx, p.OrderID, p)
	}
	return nil
}

// lockDue locks payments whose refund should have ended by now, the longest
// overdue first. Those that somebody else is working on are left to them.
func lockDue(ctx context.Context, tx *outbox.Tx, now time.Time, limit int) ([]Payment, error) {
	return many(tx.Query(ctx, `select `+columns+` from payments
		where refund_due_at <= $1 order by refund_due_at limit $2 for update skip locked`, now, limit))
}

// begin stores pending payments, committed at once, except for orders that have
// one already, and returns the ones that are there.
func begin(ctx context.Context, pool *pgxpool.Pool, ps []Payment) ([]Payment, error) {
	var b pgx.Batch // one transaction; a statement each, which is the same lookup whatever the table's size
	all := make([]Payment, len(ps))
	for i, p := range ps {
		b.Queue(`insert into payments
				(id, order_id, customer_id, amount, currency, method, provider, status, created_at, updated_at)
			values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			on conflict (order_id) do nothing`,
			p.ID, p.OrderID, p.CustomerID, p.Amount, p.Currency, p.Method, p.Provider, p.Status, p.CreatedAt, p.UpdatedAt)
		b.Queue(`select `+columns+` from payments where order_id = $1`, p.OrderID).Query(func(rows pgx.Rows) (err error) {
			all[i], err = one(rows, nil)
			return err
		})
	}
	if err := pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("begin payments: %w", err)
	}
	return all, nil
}

// reference is a provider's intent for a payment.
type reference struct {
	payment uuid.UUID
	ref     string
	at      time.Time
}

// storeRefs notes the providers' intents, committed at once, for payments that
// are chargeable. The first reference wins, so that of two processes which both
// made an intent only one intent is ever confirmed; it is returned. It is empty
// when the payment may not be charged any more.
//
// The conditions are what keeps a charge from slipping past a cancellation: see
// Payment.Chargeable.
func storeRefs(ctx context.Context, pool *pgxpool.Pool, refs []reference) (winners []string, err error) {
	var b pgx.Batch // as in begin
	winners = make([]string, len(refs))
	for i, r := range refs {
		b.Queue(`update payments set provider_ref = coalesce(provider_ref, $2), updated_at = $3
			where id = $1 and status = 'pending' and not cancel_requested
			returning provider_ref`, r.payment, r.ref, r.at).QueryRow(func(row pgx.Row) error {
			if err := row.Scan(&winners[i]); !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
			return nil
		})
	}
	if err := pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, fmt.Errorf("store references: %w", err)
	}
	return winners, nil
}

// insertTombstone stores that an order was cancelled before its payment began.
// False: the payment has begun after all, it can be locked now.
func insertTombstone(ctx context.Context, tx *outbox.Tx, p Payment) (bool, error) {
	tag, err := tx.Exec(ctx, `insert into payments
			(id, order_id, customer_id, amount, currency, method, provider, status, created_at, updated_at)
		values ($1, $2, $3, 0, '', '', $4, 'voided', $5, $5)
		on conflict (order_id) do nothing`, p.ID, p.OrderID, p.CustomerID, p.Provider, p.CreatedAt)
	if err != nil {
		return false, fmt.Errorf("store tombstone: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// update stores what the rules change; the row is locked.
func update(tx *outbox.Tx, p Payment) {
	outbox.Keep(tx, p.OrderID, p)
	tx.Queue(`update payments set status = $2, cancel_requested = $3, failure_code = $4, failure_message = $5,
			refund_asks = $6, refund_due_at = $7, updated_at = $8 where id = $1`,
		p.ID, p.Status, p.CancelRequested, p.FailureCode, p.FailureMessage, p.RefundAsks, p.RefundDue, p.UpdatedAt)
}

// countOpen counts the payments whose void or refund has not ended.
func countOpen(ctx context.Context, pool *pgxpool.Pool) (n int, err error) {
	if err = pool.QueryRow(ctx, `select count(*) from payments where refund_due_at is not null`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count open refunds: %w", err)
	}
	return n, nil
}
