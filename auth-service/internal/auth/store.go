package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// querier is a transaction, or the pool for single statements.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Advisory locks of auth_db; the numbers only have to differ.
const (
	lockAdmin = 0x61757468_01
	lockKey   = 0x61757468_02
)

func insertUser(ctx context.Context, tx *outbox.Tx, u User, hash string) error {
	_, err := tx.Exec(ctx, `
		insert into users (id, email, email_key, name, role, password_hash, created_at, updated_at)
		values ($1, $2, $3, $4, $5, $6, $7, $7)`,
		u.ID, u.Email, emailKey(u.Email), u.Name, u.Role, hash, u.CreatedAt)
	if postgres.IsUnique(err, "users_email_key") {
		return errs.New(errs.Conflict, "there is an account with this e-mail address")
	}
	if err != nil {
		return fmt.Errorf("insert user: %w", err)
	}
	return nil
}

// credentials is what a login is checked against.
type credentials struct {
	User
	Hash     string // "" when there is no such user
	Familiar bool   // the user has logged in from this network
}

// selectCredentials costs the same whether there is such a user.
func selectCredentials(ctx context.Context, q querier, email string, ip netip.Addr) (credentials, error) {
	var c credentials
	err := q.QueryRow(ctx, `
		select u.id, u.email, u.name, u.role, u.created_at, u.password_hash,
		       exists (select 1 from sessions s where s.user_id = u.id and s.network = $2
		               and (s.revoked_reason is null or s.revoked_reason = 'logout'))
		from users u where u.email_key = $1`, emailKey(email), network(ip)).
		Scan(&c.ID, &c.Email, &c.Name, &c.Role, &c.CreatedAt, &c.Hash, &c.Familiar)
	if errors.Is(err, pgx.ErrNoRows) {
		return credentials{}, nil
	}
	if err != nil {
		return c, fmt.Errorf("select credentials: %w", err)
	}
	return c, nil
}

func selectUser(ctx context.Context, q querier, id uuid.UUID) (User, error) {
	var u User
	err := q.QueryRow(ctx, `select id, email, name, role, created_at from users where id = $1`, id).
		Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return u, errs.New(errs.NotFound, "there is no such user")
	}
	if err != nil {
		return u, fmt.Errorf("select user: %w", err)
	}
	return u, nil
}

func selectUsers(ctx context.Context, q querier, email string, before uuid.UUID, limit int) ([]User, error) {
	if before == uuid.Nil {
		before = uuid.Max
	}
	// Two statements, so that each is one walk along one index.
	sql, args := `select id, email, name, role, created_at from users where id < $1 order by id desc limit $2`, []any{before, limit}
	if key := emailKey(email); key != "" {
		sql, args = `select id, email, name, role, created_at from users where id < $1 and email_key = $3 order by id desc limit $2`, append(args, key)
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("select users: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByName[User])
	if err != nil {
		return nil, fmt.Errorf("select users: %w", err)
	}
	return users, nil
}

// lockUser holds the user's row until the transaction ends, if the password is
// still the one that was verified.
func lockUser(ctx context.Context, tx *outbox.Tx, id uuid.UUID, verified string) (authn.Role, error) {
	var role authn.Role
	err := tx.QueryRow(ctx, `select role from users where id = $1 and password_hash = $2 for no key update`, id, verified).Scan(&role)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errPasswordChanged
	}
	if err != nil {
		return "", fmt.Errorf("lock user: %w", err)
	}
	return role, nil
}

func updateHash(tx *outbox.Tx, id uuid.UUID, hash string) {
	tx.Queue(`update users set password_hash = $2, updated_at = clock_timestamp() where id = $1`, id, hash)
}

var errPasswordChanged = errors.New("the password was changed meanwhile")

func selectHash(ctx context.Context, q querier, id uuid.UUID) (email, hash string, err error) {
	err = q.QueryRow(ctx, `select email, password_hash from users where id = $1`, id).Scan(&email, &hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", errs.New(errs.NotFound, "there is no such user")
	}
	if err != nil {
		return "", "", fmt.Errorf("select password: %w", err)
	}
	return email, hash, nil
}

// lockRoles lets one transaction at a time change who is an Admin.
func lockRoles(ctx context.Context, tx *outbox.Tx) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockAdmin)); err != nil {
		return fmt.Errorf("lock roles: %w", err)
	}
	return nil
}

func countAdmins(ctx context.Context, q querier) (int, error) {
	var n int
	if err := q.QueryRow(ctx, `select count(*) from users where role = 'Admin'`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count admins: %w", err)
	}
	return n, nil
}

func updateRole(tx *outbox.Tx, id uuid.UUID, role authn.Role) {
	tx.Queue(`update users set role = $2, updated_at = clock_timestamp() where id = $1`, id, role)
}

// selectLevel returns how full b is now.
func selectLevel(ctx context.Context, q querier, b bucket) (level float64, err error) {
	err = q.QueryRow(ctx, `select greatest(0, level - extract(epoch from clock_timestamp() - updated_at) / $2)
		from login_failures where bucket = $1`, b.key[:], b.every.Seconds()).Scan(&level)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("select failed logins: %w", err)
	}
	return level, nil
}

// take counts one try against b and tells whether there was room for it.
func take(ctx context.Context, tx *outbox.Tx, b bucket) (bool, error) {
	tag, err := tx.Exec(ctx, `
		insert into login_failures as f (bucket, level, updated_at) values ($1, 1, clock_timestamp())
		on conflict (bucket) do update set
			level = greatest(0, f.level - extract(epoch from clock_timestamp() - f.updated_at) / $3) + 1,
			updated_at = clock_timestamp()
		where greatest(0, f.level - extract(epoch from clock_timestamp() - f.updated_at) / $3) + 1 <= $2`,
		b.key[:], b.burst, b.every.Seconds())
	if err != nil {
		return false, fmt.Errorf("count login: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

const giveBack = `update login_failures set level = greatest(0, level - 1) where bucket = any($1)`

func bucketKeys(taken []bucket) [][]byte {
	keys := make([][]byte, len(taken))
	for i := range taken {
		keys[i] = taken[i].key[:]
	}
	return keys
}

// audit is a row of the security log.
type audit struct {
	Kind                   string
	User, Actor, SessionID uuid.UUID
	Client                 Client
	Detail                 map[string]any
}

const insertAuditSQL = `insert into audit_log (kind, user_id, actor_id, session_id, ip, user_agent, detail)
	values ($1, $2, $3, $4, $5, $6, $7)`

func (a audit) args() []any {
	detail, err := json.Marshal(a.Detail)
	if err != nil || a.Detail == nil {
		detail = []byte(`{}`)
	}
	return []any{a.Kind, orNull(a.User), orNull(a.Actor), orNull(a.SessionID), a.Client.ip(), a.Client.agent(), string(detail)}
}

func orNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

func insertAudit(tx *outbox.Tx, a audit) { tx.Queue(insertAuditSQL, a.args()...) }

// prune removes what has ended, the oldest first, in bounded steps that read
// nothing else, and tells whether there is more.
func prune(ctx context.Context, q querier, auditBefore time.Time) (more bool, err error) {
	const step = 1000
	for _, sql := range []string{
		`delete from refresh_tokens where ctid = any(array(select ctid from refresh_tokens where expires_at < now() order by expires_at limit $1))`,
		`delete from sessions where ctid = any(array(select ctid from sessions where expires_at < now() order by expires_at limit $1))`,
		`delete from login_failures where ctid = any(array(
			select ctid from login_failures where updated_at < now() - interval '1 hour' order by updated_at limit $1))`,
	} {
		tag, err := q.Exec(ctx, sql, step)
		if err != nil {
			return false, fmt.Errorf("prune: %w", err)
		}
		more = more || tag.RowsAffected() == step
	}
	tag, err := q.Exec(ctx, `delete from audit_log where ctid = any(array(select ctid from audit_log where at < $2 order by at limit $1))`, step, auditBefore)
	if err != nil {
		return false, fmt.Errorf("prune: %w", err)
	}
	return more || tag.RowsAffected() == step, nil
}
