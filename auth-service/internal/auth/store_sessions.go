package auth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Reasons for which a session ends, as the table has them.
const (
	reasonLogout   = "logout"
	reasonRevoked  = "revoked"
	reasonPassword = "password_changed"
	reasonReuse    = "reuse"
)

func insertSession(tx *outbox.Tx, s Session, user uuid.UUID, c Client, expires time.Time) {
	tx.Queue(`
		insert into sessions (id, user_id, created_at, last_used_at, expires_at, ip, network, user_agent)
		values ($1, $2, $3, $3, $4, $5, $6, $7)`,
		s.ID, user, s.CreatedAt, expires, c.ip(), network(c.IP), c.agent())
}

func insertRefresh(tx *outbox.Tx, hash []byte, session uuid.UUID, expires time.Time) {
	tx.Queue(`insert into refresh_tokens (hash, session_id, expires_at) values ($1, $2, $3)`, hash, session, expires)
}

// family is a session as a refresh finds it, its row locked.
type family struct {
	Session uuid.UUID
	User    uuid.UUID
	Role    authn.Role
	Over    bool // revoked
}

// lockFamily locks the session that a refresh token belongs to.
func lockFamily(ctx context.Context, tx *outbox.Tx, hash []byte) (f family, found bool, err error) {
	err = tx.QueryRow(ctx, `
		select s.id, s.user_id, u.role, s.revoked_at is not null
		from sessions s join users u on u.id = s.user_id
		where s.id = (select session_id from refresh_tokens where hash = $1)
		for no key update of s`, hash).Scan(&f.Session, &f.User, &f.Role, &f.Over)
	if errors.Is(err, pgx.ErrNoRows) {
		return f, false, nil
	}
	if err != nil {
		return f, false, fmt.Errorf("lock session: %w", err)
	}
	return f, true, nil
}

// tokenState is what became of a refresh token.
type tokenState struct {
	Used    bool
	Since   time.Duration // from its rotation to the start of this transaction
	Expired bool
}

// selectToken reads a token under its session's lock: a statement of its own,
// so that it sees what the one who held the lock before has done.
//
// Times are the database's: replicas' clocks differ by more than the grace.
// now() is when this transaction began, so waiting for the lock does not count.
func selectToken(ctx context.Context, tx *outbox.Tx, hash []byte) (t tokenState, err error) {
	var seconds float64
	err = tx.QueryRow(ctx, `
		select used_at is not null, coalesce(extract(epoch from now() - used_at), 0)::float8, expires_at <= now()
		from refresh_tokens where hash = $1`, hash).Scan(&t.Used, &seconds, &t.Expired)
	if errors.Is(err, pgx.ErrNoRows) {
		t.Expired = true // pruned meanwhile
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("select refresh token: %w", err)
	}
	t.Since = time.Duration(seconds * float64(time.Second))
	return t, nil
}

// rotate replaces the session's live token.
func rotate(tx *outbox.Tx, old, next []byte, session uuid.UUID, c Client, now, expires time.Time) {
	tx.Queue(`update refresh_tokens set used_at = clock_timestamp() where hash = $1`, old)
	insertRefresh(tx, next, session, expires)
	tx.Queue(`update sessions set last_used_at = $2, expires_at = $3, ip = $4, user_agent = $5 where id = $1`,
		session, now, expires, c.ip(), c.agent())
}

// revokeSession ends one session of a user and tells whether it was live.
func revokeSession(ctx context.Context, tx *outbox.Tx, user, session uuid.UUID, reason string) (bool, error) {
	tag, err := tx.Exec(ctx, `
		update sessions set revoked_at = clock_timestamp(), revoked_reason = $3
		where id = $1 and user_id = $2 and revoked_at is null and expires_at > now()`, session, user, reason)
	if err != nil {
		return false, fmt.Errorf("revoke session: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

func revokeOthers(ctx context.Context, tx *outbox.Tx, user, keep uuid.UUID, reason string) (int64, error) {
	tag, err := tx.Exec(ctx, `
		update sessions set revoked_at = clock_timestamp(), revoked_reason = $3
		where user_id = $1 and id <> $2 and revoked_at is null`, user, keep, reason)
	if err != nil {
		return 0, fmt.Errorf("revoke sessions: %w", err)
	}
	return tag.RowsAffected(), nil
}

func selectSessions(ctx context.Context, q querier, user, before uuid.UUID, limit int) ([]Session, error) {
	rows, err := q.Query(ctx, `
		select id, created_at, last_used_at, user_agent, ip from sessions
		where user_id = $1 and revoked_at is null and expires_at > now()
		  and ($2 = '00000000-0000-0000-0000-000000000000'::uuid or id < $2)
		order by id desc limit $3`, user, before, limit)
	if err != nil {
		return nil, fmt.Errorf("select sessions: %w", err)
	}
	sessions, err := pgx.CollectRows(rows, pgx.RowToStructByName[Session])
	if err != nil {
		return nil, fmt.Errorf("select sessions: %w", err)
	}
	return sessions, nil
}
