package auth

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// replica returns other Keys on the same database and clock.
func (f *fixture) replica(secret string) *Keys {
	log := slog.New(slog.DiscardHandler)
	cfg := f.keys.cfg
	cfg.Secret = secret
	k := NewKeys(f.db, postgres.NewDoorbell(f.db.Pool, log), cfg, log, prometheus.NewRegistry())
	k.now = f.clock.now
	return k
}

func (f *fixture) published(t *testing.T) []string {
	t.Helper()
	set, err := f.keys.JWKS()
	require.NoError(t, err)
	kids := []string{}
	for _, k := range set.Keys {
		kids = append(kids, k.Kid)
	}
	return kids
}

func TestKeySchedule(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	require.Len(t, f.published(t), 1)
	first, err := f.keys.signer()
	require.NoError(t, err)

	// The successor is made and published long before it signs.
	f.clock.move(21*time.Hour + time.Minute)
	require.NoError(t, f.keys.maintain(t.Context()))
	require.Len(t, f.published(t), 2)
	next := (*f.keys.keys.Load())[0]
	require.Equal(t, first.SignUntil.Unix(), next.SignFrom.Unix())
	require.Greater(t, next.SignFrom.Sub(f.clock.now()), publishAhead)
	key, err := f.keys.signer()
	require.NoError(t, err)
	require.Equal(t, first.ID, key.ID)
	require.NoError(t, f.keys.maintain(t.Context()))
	require.Len(t, f.published(t), 2, "one successor is enough")

	// At its time it signs, with no look at the database in between; the old one
	// still verifies.
	old := f.login(t, "ann@example.com")
	f.clock.move(3*time.Hour - 2*time.Minute)
	old, err = f.Refresh(t.Context(), old.Refresh, home)
	require.NoError(t, err)
	f.clock.move(2 * time.Minute)
	key, err = f.keys.signer()
	require.NoError(t, err)
	require.Equal(t, next.ID, key.ID)
	_, err = f.verifier.Verify(t.Context(), old.Access)
	require.NoError(t, err, "a token of the old key lives to its end")
	require.NoError(t, f.keys.maintain(t.Context()))
	require.Len(t, f.published(t), 2)

	// When the last token of the old key has ended, so has the key.
	f.clock.move(15*time.Minute + authn.Leeway + time.Second)
	require.NoError(t, f.keys.maintain(t.Context()))
	require.Equal(t, []string{next.ID}, f.published(t))

	// After a long sleep there is a key at once.
	f.clock.move(1000 * time.Hour)
	_, err = f.keys.signer()
	require.Equal(t, errs.Unavailable, errs.KindOf(err), "times are checked at each signature")
	require.Error(t, f.keys.Ready(t.Context()))
	require.NoError(t, f.keys.maintain(t.Context()))
	_, err = f.keys.signer()
	require.NoError(t, err)
	require.Equal(t, 1, f.count(t, `select count(*) from signing_keys`), "ended keys are removed")
}

func TestReplicasThatStartTogetherMakeOneKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(t, `delete from signing_keys`)
	a, b := f.replica(""), f.replica("")
	opened := make(chan error, 1)
	// One has made its key and not yet committed when the other comes.
	require.NoError(t, f.db.InTx(t.Context(), func(tx *outbox.Tx) error {
		require.NoError(t, lockKeys(t.Context(), tx))
		key, err := a.make()
		require.NoError(t, err)
		key.SignFrom = f.clock.now()
		a.schedule(&key, key.SignFrom.Add(24*time.Hour))
		require.NoError(t, a.insert(t.Context(), tx, key))
		go func() { opened <- b.Open(context.Background()) }()
		require.Eventually(t, func() bool {
			return len(opened) == 1 || f.count(t, `select count(*) from pg_locks l join pg_database d on d.oid = l.database
				where d.datname = current_database() and l.locktype = 'advisory' and not l.granted`) == 1
		}, 30*time.Second, 5*time.Millisecond)
		return nil
	}))
	require.NoError(t, <-opened)
	require.NoError(t, a.Open(t.Context()))
	require.Equal(t, 1, f.count(t, `select count(*) from signing_keys`))
	mine, err := a.signer()
	require.NoError(t, err)
	theirs, err := b.signer()
	require.NoError(t, err)
	require.Equal(t, mine.ID, theirs.ID)
}

func TestPlannedRotationVoidsNoToken(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	before := f.login(t, "ann@example.com")
	kid, at, err := f.replica("").Rotate(t.Context(), false)
	require.NoError(t, err)
	require.Equal(t, f.clock.now().Add(publishAhead).Unix(), at.Unix())
	require.GreaterOrEqual(t, at.Sub(f.clock.now()), JWKSMaxAge+time.Minute, "whoever caches the JWKS, and then whoever fetches it every minute, has it in time")
	again, _, err := f.replica("").Rotate(t.Context(), false)
	require.NoError(t, err, "asked twice: the one that never signed makes room")

	require.NoError(t, f.keys.maintain(t.Context()))
	require.Len(t, f.published(t), 2)
	require.NotContains(t, f.published(t), kid)
	key, err := f.keys.signer()
	require.NoError(t, err)
	require.NotEqual(t, again, key.ID)
	f.clock.move(publishAhead)
	key, err = f.keys.signer()
	require.NoError(t, err)
	require.Equal(t, again, key.ID)
	_, err = f.verifier.Verify(t.Context(), before.Access)
	require.NoError(t, err)
	require.Equal(t, 2, f.count(t, `select count(*) from audit_log where kind = 'keys_rotated'`))
}

func TestTokensNeverOutliveTheirKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	key, err := f.keys.signer()
	require.NoError(t, err)
	// The service was restarted with a longer AUTH_ACCESS_TTL than the key knows.
	f.cfg.AccessTTL = 2 * time.Hour
	f.clock.move(key.SignUntil.Sub(f.clock.now()) - time.Minute)
	tokens := f.login(t, "ann@example.com")
	p, err := f.verifier.Verify(t.Context(), tokens.Access)
	require.NoError(t, err)
	require.False(t, p.Expires.After(key.VerifyUntil))
	require.InDelta(t, p.Expires.Sub(f.clock.now()).Seconds(), tokens.AccessExpires.Seconds(), 1, "and the client is told")
}

// A rotation by a command that knows a shorter AUTH_ACCESS_TTL leaves the old key
// in the JWKS until the last of its tokens has ended.
func TestRotationByACommandWithOtherSettingsVoidsNoToken(t *testing.T) {
	t.Parallel()
	f := setup(t)
	key, err := f.keys.signer()
	require.NoError(t, err)
	other := f.replica("")
	other.cfg.AccessTTL = 10 * time.Second
	_, _, err = other.Rotate(t.Context(), false)
	require.NoError(t, err)
	require.Equal(t, 1, f.count(t, `select count(*) from signing_keys where kid = $1 and verify_until - sign_until >= interval '15 minutes'`, key.ID))
}

func TestRevokingRotationVoidsAllAccessTokensAndNoSession(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	before := f.login(t, "ann@example.com")
	kid, _, err := f.replica("").Rotate(t.Context(), true)
	require.NoError(t, err)
	require.NoError(t, f.keys.maintain(t.Context()))
	require.Equal(t, []string{kid}, f.published(t))
	_, err = f.verifier.Verify(t.Context(), before.Access)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
	after, err := f.Refresh(t.Context(), before.Refresh, home)
	require.NoError(t, err)
	_, err = f.verifier.Verify(t.Context(), after.Access)
	require.NoError(t, err)
}

func TestReplicasFollowByDoorbell(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.keys.Run(ctx) }()
	require.Eventually(t, func() bool {
		f.keys.bell.Ring(keysBell)
		_, _, err := f.replica("").Rotate(t.Context(), false)
		return err == nil && len(f.published(t)) == 2
	}, 20*time.Second, 50*time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

func TestPrivateKeysAreSealedWithTheSecret(t *testing.T) {
	t.Parallel()
	f := setup(t)
	secret := strings.Repeat("s", 32)
	require.Equal(t, 1, f.count(t, `select count(*) from signing_keys where not sealed`))

	// A secret that is set later seals what is there.
	sealed := f.replica(secret)
	require.NoError(t, sealed.Open(t.Context()))
	require.Zero(t, f.count(t, `select count(*) from signing_keys where not sealed`))
	var kid string
	var box []byte
	require.NoError(t, f.db.Pool.QueryRow(t.Context(), `select kid, private_key from signing_keys`).Scan(&kid, &box))
	require.Equal(t, f.published(t)[0], kid)
	_, _, err := sealed.Rotate(t.Context(), false)
	require.NoError(t, err)
	require.Equal(t, 2, f.count(t, `select count(*) from signing_keys where sealed`))

	again := f.replica(secret)
	require.NoError(t, again.Open(t.Context()))
	key, err := again.signer()
	require.NoError(t, err)
	require.True(t, key.Key.Equal(f.keys.find(kid).Key))

	require.ErrorIs(t, f.replica("").Open(t.Context()), ErrSealed)
	require.ErrorIs(t, f.replica(strings.Repeat("t", 32)).Open(t.Context()), ErrSealed)
	f.exec(t, `update signing_keys set private_key = 'x', sealed = false`)
	require.ErrorContains(t, f.replica("").Open(t.Context()), "signing key")
}
