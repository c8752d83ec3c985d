package notification

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

const columns = `id, seq, kind, order_id, title, body, created_at, read_at`

// fields are where columns are scanned to.
func (n *Notification) fields() []any {
	return []any{&n.ID, &n.Seq, &n.Kind, &n.OrderID, &n.Title, &n.Body, &n.CreatedAt, &n.ReadAt}
}

func (n Notification) inUTC() Notification {
	n.CreatedAt = n.CreatedAt.UTC()
	if n.ReadAt != nil {
		at := n.ReadAt.UTC()
		n.ReadAt = &at
	}
	return n
}

func scan(rows pgx.CollectableRow) (Notification, error) {
	var n Notification
	err := rows.Scan(n.fields()...)
	return n.inUTC(), err
}

// insertNotification queues the notification with the user's next number and,
// for a user not heard of yet, a contact without an address. The number is taken
// under the user's lock until COMMIT, so none appears below one that was seen.
// The newest notification must never be deleted: its number would be given again.
func insertNotification(tx *outbox.Tx, id uuid.UUID, eventID uuid.UUID, n Notice, at time.Time) {
	// In one order, so that batches which tell the same new users do not deadlock.
	tx.QueueRow(`insert into contacts (user_id) select distinct u from unnest($1::uuid[]) u order by u on conflict do nothing`, n.UserID)
	tx.QueueLockedRow(lockOf(n.UserID), nextNotifications,
		id, n.UserID, n.Kind, eventID, n.OrderID, n.Title, n.Body, at)
}

// Only the source may conflict: a number that is given twice is an error. One
// that is left out because of it is not.
const nextNotifications = `
	insert into notifications (id, user_id, seq, kind, event_id, order_id, title, body, created_at)
	select id, user_id,
		row_number() over (partition by user_id order by i) +
			coalesce((select seq from notifications n where n.user_id = u.user_id order by seq desc limit 1), 0),
		kind, event_id, order_id, title, body, created_at
	from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::timestamptz[])
		with ordinality u (id, user_id, kind, event_id, order_id, title, body, created_at, i)
	on conflict on constraint notifications_source do nothing`

// lockOf is the key of the user's lock: any bits will do, and these are random.
func lockOf(user uuid.UUID) int64 { return int64(binary.BigEndian.Uint64(user[8:])) }

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

// found is a message to send, and whether it was sent already. Its To is empty
// while the contact has no address.
type found struct {
	Message
	exists, delivered bool
}

const messagesByID = `
	select n.id, n.user_id, n.kind, n.title, n.body, n.created_at, coalesce(c.email, ''), c.name,
	       exists (select from deliveries d where d.notification_id = n.id and d.status = 'delivered')
	from notifications n join contacts c on c.user_id = n.user_id
	where n.id = any($1)`

// findMessages reads what the notifications say, in the order of ids.
func findMessages(ctx context.Context, pool *pgxpool.Pool, ids []uuid.UUID) ([]found, error) {
	rows, err := pool.Query(ctx, messagesByID, ids)
	if err != nil {
		return nil, fmt.Errorf("find messages: %w", err)
	}
	byID := make(map[uuid.UUID]found, len(ids))
	f := found{exists: true}
	_, err = pgx.ForEachRow(rows, []any{&f.ID, &f.UserID, &f.Kind, &f.Title, &f.Body, &f.CreatedAt, &f.To, &f.Name, &f.delivered}, func() error {
		byID[f.ID] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find messages: %w", err)
	}
	all := make([]found, len(ids))
	for i, id := range ids {
		all[i] = byID[id]
	}
	return all, nil
}

// recordDelivery queues how a delivery ended; delivered is never taken back.
func recordDelivery(tx *outbox.Tx, id, user uuid.UUID, status, channel string, at time.Time) {
	// A statement may not write a row twice: of two ends, delivered counts, which
	// is the lower word.
	tx.QueueRow(`
		insert into deliveries (notification_id, user_id, status, channel, at)
		select distinct on (id) id, user_id, status, channel, at
		from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) u (id, user_id, status, channel, at)
		order by id, status, at
		on conflict (notification_id) do update set status = excluded.status, channel = excluded.channel, at = excluded.at
		where deliveries.status <> 'delivered'`, id, user, status, channel, at)
}

// lastSeq returns the user's highest number, 0 without any.
func lastSeq(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID) (seq int64, err error) {
	err = pool.QueryRow(ctx, `select coalesce(max(seq), 0) from notifications where user_id = $1`, user).Scan(&seq)
	if err != nil {
		return 0, fmt.Errorf("find last notification: %w", err)
	}
	return seq, nil
}

// listBefore returns up to limit notifications below before, newest first.
func listBefore(ctx context.Context, pool *pgxpool.Pool, user uuid.UUID, before int64, unread bool, limit int) (list []Notification, err error) {
	sql := `select ` + columns + ` from notifications where user_id = $1 and seq < $2 order by seq desc limit $3`
	if unread {
		sql = `select ` + columns + ` from notifications where user_id = $1 and seq < $2 and read_at is null order by seq desc limit $3`
	}
	rows, err := pool.Query(ctx, sql, user, before, limit)
	if err == nil {
		list, err = pgx.CollectRows(rows, scan)
	}
	if err != nil {
		return nil, fmt.Errorf("list notifications: %w", err)
	}
	return list, nil
}

// position is where a stream is: it was sent the notifications up to after, and
// is to get only the unread ones of those up to known.
type position struct {
	user         uuid.UUID
	after, known int64
}

const newSince = `select p.i, n.* from unnest($1::uuid[], $2::bigint[], $3::bigint[]) with ordinality p (user_id, after, known, i)
	cross join lateral (
		select ` + columns + ` from notifications
		where user_id = p.user_id and seq > p.after and (seq > p.known or read_at is null) order by seq limit $4
	) n`

// listAfter returns for each position up to limit notifications, oldest first.
func listAfter(ctx context.Context, pool *pgxpool.Pool, at []position, limit int) ([][]Notification, error) {
	users, after, known := make([]uuid.UUID, len(at)), make([]int64, len(at)), make([]int64, len(at))
	for i, p := range at {
		users[i], after[i], known[i] = p.user, p.after, p.known
	}
	rows, err := pool.Query(ctx, newSince, users, after, known, limit)
	if err != nil {
		return nil, fmt.Errorf("list new notifications: %w", err)
	}
	lists := make([][]Notification, len(at))
	var i int
	var n Notification
	_, err = pgx.ForEachRow(rows, append([]any{&i}, n.fields()...), func() error {
		lists[i-1] = append(lists[i-1], n.inUTC())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list new notifications: %w", err)
	}
	return lists, nil
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
