package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// keyRow is a signing key as it is stored.
type keyRow struct {
	Kid         string
	PrivateKey  []byte
	Sealed      bool
	CreatedAt   time.Time
	SignFrom    time.Time
	SignUntil   time.Time
	VerifyUntil time.Time
}

// lockKeys lets one transaction at a time change the keys.
func lockKeys(ctx context.Context, tx *outbox.Tx) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(lockKey)); err != nil {
		return fmt.Errorf("lock signing keys: %w", err)
	}
	return nil
}

// selectKeys returns the keys whose tokens have not all ended, newest first.
func selectKeys(ctx context.Context, q querier, now time.Time) ([]keyRow, error) {
	rows, err := q.Query(ctx, `
		select kid, private_key, sealed, created_at, sign_from, sign_until, verify_until
		from signing_keys where verify_until > $1 order by sign_from desc, kid desc`, now)
	if err != nil {
		return nil, fmt.Errorf("select signing keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowToStructByName[keyRow])
	if err != nil {
		return nil, fmt.Errorf("select signing keys: %w", err)
	}
	return keys, nil
}

func insertKey(ctx context.Context, tx *outbox.Tx, k signingKey, private []byte, sealed bool) error {
	_, err := tx.Exec(ctx, `
		insert into signing_keys (kid, private_key, sealed, created_at, sign_from, sign_until, verify_until)
		values ($1, $2, $3, $4, $5, $6, $7)`,
		k.ID, private, sealed, k.Created, k.SignFrom, k.SignUntil, k.VerifyUntil)
	if err != nil {
		return fmt.Errorf("insert signing key: %w", err)
	}
	return nil
}

func updateKey(tx *outbox.Tx, k signingKey) {
	tx.Queue(`update signing_keys set sign_until = $2, verify_until = $3 where kid = $1`, k.ID, k.SignUntil, k.VerifyUntil)
}

func sealKey(tx *outbox.Tx, kid string, box []byte) {
	tx.Queue(`update signing_keys set private_key = $2, sealed = true where kid = $1 and not sealed`, kid, box)
}

func deleteKey(tx *outbox.Tx, kid string) { tx.Queue(`delete from signing_keys where kid = $1`, kid) }

func deleteAllKeys(tx *outbox.Tx) { tx.Queue(`delete from signing_keys`) }

func deleteEndedKeys(tx *outbox.Tx, now time.Time) {
	tx.Queue(`delete from signing_keys where verify_until <= $1`, now)
}
