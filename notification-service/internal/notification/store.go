package notification

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

const columns = `id, seq, kind, order_id, title, body, created_at, read_at`

func scan(rows pgx.CollectableRow) (Notification, error) {
	var n Notification
	err := rows.Scan(&n.ID, &n.Seq, &n.Kind, &n.OrderID, &n.Title, &n.Body, &n.CreatedAt, &n.ReadAt)
	n.CreatedAt = n.CreatedAt.UTC()
	if n.ReadAt != nil {
		at := n.ReadAt.UTC()
		n.ReadAt = &at
	}
	return n, err
}

// insertNotification queues the notification and, for a user not heard of yet,
// a contact without an address. It locks no row that another event's
// notification could want, so batches of several topics cannot deadlock; that
// is why the number is given later.
func insertNotification(tx *outbox.Tx, id uuid.UUID, eventID uuid.UUID, n Notice, at time.Time) {
	tx.Queue(`
		with contact as (insert into contacts (user_id) values ($2) on conflict do nothing)
		insert into notifications (id, user_id, kind, event_id, order_id, title, body, created_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8)
		on conflict do nothing`,
		id, n.UserID, n.Kind, eventID, n.OrderID, n.Title, n.Body, at)
}

// saveContact locks the contact's row until the transaction ends.
func saveContact(ctx context.Context, tx *outbox.Tx, user uuid.UUID, email, name string) error {
	_, err := tx.Exec(ctx, `
		insert into contacts (user_id, email, name) values ($1, $2, $3)
		on conflict (user_id) do update set email = excluded.email, name = excluded.name`, user, email, name)
	if err != nil {
		return fmt.Errorf("save contact: %w", err)
	}
	return nil
}

// hasAddress tells whether the contact has an address and keeps it from getting
// one until the transaction ends.
func hasAddress(ctx context.Context, tx *outbox.Tx, user uuid.UUID) (bool, error) {
	var has bool
	err := tx.QueryRow(ctx, `select email is not null from contacts where user_id = $1 for share`, user).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("lock contact: %w", err)
	}
	return has, nil
}

// waiting is a delivery that waits for its contact's address.
type waiting struct {
	NotificationID uuid.UUID
	OrderID        *uuid.UUID
}

// releaseWaiting forgets and returns the deliveries that waited for the
// contact's address. The contact must be locked by saveContact.
func releaseWaiting(ctx context.Context, tx *outbox.Tx, user uuid.UUID) ([]waiting, error) {
	rows, err := tx.Query(ctx, `
		with released as (delete from deliveries where user_id = $1 and status = 'waiting' returning notification_id)
		select n.id, n.order_id from released r join notifications n on n.id = r.notification_id order by n.id`, user)
	if err != nil {
		return nil, fmt.Errorf("release waiting deliveries: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[waiting])
	if err != nil {
		return nil, fmt.Errorf("release waiting deliveries: %w", err)
	}
	return list, nil
}

// findMessage reads what to send, and whether it was sent already. To is empty
// while the contact has no address.
func findMessage(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) (m Message, delivered bool, err error) {
	var to *string
	err = pool.QueryRow(ctx, `
		select n.id, n.user_id, n.kind, n.title, n.body, n.created_at, c.email, c.name,
		       exists (select from deliveries d where d.notification_id = n.id and d.status = 'delivered')
		from notifications n join contacts c on c.user_id = n.user_id
		where n.id = $1`, id).
		Scan(&m.ID, &m.UserID, &m.Kind, &m.Title, &m.Body, &m.CreatedAt, &to, &m.Name, &delivered)
	if errors.Is(err, pgx.ErrNoRows) {
		return m, false, fmt.Errorf("%w: notification %s does not exist", ErrUnusable, id)
	}
	if err != nil {
		return m, false, fmt.Errorf("find message: %w", err)
	}
	if to != nil {
		m.To = *to
	}
	return m, delivered, nil
}

// recordDelivery queues how a delivery ended; delivered is never taken back.
func recordDelivery(tx *outbox.Tx, id, user uuid.UUID, status, channel string, at time.Time) {
	tx.Queue(`
		insert into deliveries (notification_id, user_id, status, channel, at) values ($1, $2, $3, $4, $5)
		on conflict (notification_id) do update set status = excluded.status, channel = excluded.channel, at = excluded.at
		where deliveries.status <> 'delivered'`, id, user, status, channel, at)
}

const (
	// lockIfNew locks the contact of a user with notifications that have no
	// number yet. It is a statement of its own, because the next one must see what
	// the lock's last holder numbered.
	lockIfNew = `select from contacts
		where user_id = $1 and (select id from notifications where user_id = $1 and seq is null order by id limit 1) is not null
		for no key update`
	// giveNumbers numbers what is committed, oldest first, under that lock. Without
	// it, whatever was committed between the two statements waits for the next
	// look: the lock alone has given this transaction an id.
	giveNumbers = `with fresh as (
			select n.id, c.last_seq + row_number() over (order by n.id) as seq
			from notifications n join contacts c on c.user_id = n.user_id
			where n.user_id = $1 and n.seq is null and pg_current_xact_id_if_assigned() is not null
		), numbered as (
			update notifications n set seq = f.seq from fresh f
			where n.id = f.id and n.user_id = $1 and n.seq is null returning n.seq -- by the same index again
		)
		update contacts set last_seq = (select max(seq) from numbered)
		where user_id = $1 and exists (select from numbered)`
)

// look gives numbers to the user's new notifications and then runs a query: one
// round trip, which is one transaction, and writes nothing when nothing is new.
//
// Numbers are given when somebody looks, not when notifications are written: a
// writer would have to hold the contact's row until its batch commits, and two
// batches that notify the same users in different orders would deadlock.
func look(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID, read func(pgx.Rows) error, sql string, args ...any) error {
	var b pgx.Batch
	b.Queue(lockIfNew, user)
	b.Queue(giveNumbers, user)
	b.Queue(sql, args...).Query(read)
	if err := pool.SendBatch(ctx, &b).Close(); err != nil {
		return fmt.Errorf("look at notifications: %w", err)
	}
	return nil
}

func lookList(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID, sql string, args ...any) (list []Notification, err error) {
	err = look(ctx, pool, user, func(rows pgx.Rows) error {
		list, err = pgx.CollectRows(rows, scan)
		return err
	}, sql, args...)
	return list, err
}

// lastSeq returns the highest number there is.
func lastSeq(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID) (seq int64, err error) {
	err = look(ctx, pool, user, func(rows pgx.Rows) error {
		seq, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	}, `select coalesce((select last_seq from contacts where user_id = $1), 0)`, user)
	return seq, err
}

// listBefore returns up to limit notifications below before, newest first.
func listBefore(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID, before int64, unread bool, limit int) ([]Notification, error) {
	sql := `select ` + columns + ` from notifications where user_id = $1 and seq < $2 order by seq desc limit $3`
	if unread {
		sql = `select ` + columns + ` from notifications where user_id = $1 and seq < $2 and read_at is null order by seq desc limit $3`
	}
	return lookList(ctx, pool, user, sql, user, before, limit)
}

// listAfter returns up to limit notifications above after, oldest first, and of
// those up to known only the unread ones.
func listAfter(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID, after, known int64, limit int) ([]Notification, error) {
	return lookList(ctx, pool, user, `select `+columns+` from notifications
		where user_id = $1 and seq > $2 and (seq > $3 or read_at is null) order by seq limit $4`, user, after, known, limit)
}

// markRead keeps the time of the first reading. It tells whether the user has
// such a notification.
func markRead(ctx context.Context, tx *outbox.Tx, user, id uuid.UUID, at time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, `update notifications set read_at = coalesce(read_at, $3) where id = $1 and user_id = $2`, id, user, at)
	if err != nil {
		return false, fmt.Errorf("mark read: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}
