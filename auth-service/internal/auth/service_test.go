package auth

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth/migrations"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = "a good password"

// clock is a time that tests move.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time        { return time.Unix(0, c.at.Load()) }
func (c *clock) move(by time.Duration) { c.at.Add(int64(by)) }

type fixture struct {
	*Service
	keys     *Keys
	verifier *authn.Verifier
	clock    *clock
}

// setup returns the service over a database of its own. HashConcurrency is 2.
func setup(t *testing.T) *fixture {
	t.Helper()
	pool := pgtest.New(t, migrations.Files)
	log := slog.New(slog.DiscardHandler)
	db := outbox.NewDB(pool, nil)
	c := newClock()
	keys := NewKeys(db, postgres.NewDoorbell(pool, log), KeysConfig{Lifetime: 24 * time.Hour, AccessTTL: 15 * time.Minute}, log, prometheus.NewRegistry())
	keys.now = c.now
	require.NoError(t, keys.Open(t.Context()))
	s, err := NewService(db, keys, Config{
		Issuer: "i", Audience: "a", AccessTTL: 15 * time.Minute, RefreshTTL: 30 * 24 * time.Hour,
		RefreshGrace: time.Minute, AuditRetention: 24 * time.Hour, HashConcurrency: 2,
	}, log, prometheus.NewRegistry())
	require.NoError(t, err)
	s.now = c.now
	s.hasher.wait = time.Minute // the machine may be busy; tests of the bound set their own
	v := authn.NewVerifier(authn.Config{Issuer: "i", Audience: "a", Now: c.now}, keys.Set(), log, prometheus.NewRegistry())
	return &fixture{s, keys, v, c}
}

func from(ip string) Client { return Client{IP: netip.MustParseAddr(ip), UserAgent: "test"} }

var home = from("198.51.100.1")

func (f *fixture) register(t *testing.T, email string) User {
	t.Helper()
	u, err := f.Register(t.Context(), NewUser{Email: email, Password: good, Name: "Ann"}, home)
	require.NoError(t, err)
	return u
}

func (f *fixture) login(t *testing.T, email string) Tokens {
	t.Helper()
	tokens, err := f.Login(t.Context(), email, good, home)
	require.NoError(t, err)
	return tokens
}

// count runs a counting query.
func (f *fixture) count(t *testing.T, sql string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, f.db.Pool.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func (f *fixture) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	_, err := f.db.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func TestRegistrationEmitsItsEventOrNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "Ann@example.com")
	var topic string
	var key, value []byte
	require.NoError(t, f.db.Pool.QueryRow(t.Context(), `select topic, key, value from msg.outbox`).Scan(&topic, &key, &value))
	require.Equal(t, "user.registered", topic)
	require.Equal(t, u.ID.String(), string(key))
	var payload map[string]any
	require.NoError(t, json.Unmarshal(value, &payload))
	require.Equal(t, map[string]any{"user_id": u.ID.String(), "email": "Ann@example.com", "name": "Ann", "registered_at": u.CreatedAt.Format(time.RFC3339Nano)}, payload)

	_, err := f.Register(t.Context(), NewUser{Email: "ANN@example.com", Password: good, Name: "Eve"}, home)
	require.Equal(t, errs.Conflict, errs.KindOf(err))
	require.Equal(t, 1, f.count(t, `select count(*) from msg.outbox`))
	require.Equal(t, 1, f.count(t, `select count(*) from audit_log where kind = 'user_registered'`))
}

func TestOneAddressRegisteredByManyAtOnceIsOneAccount(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var made, taken atomic.Int64
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			err := error(errs.New(errs.Unavailable, "not tried yet"))
			for errs.KindOf(err) == errs.Unavailable { // too many passwords hashed at once, on a slow machine
				_, err = f.Register(context.Background(), NewUser{Email: "ann@example.com", Password: good, Name: "Ann"}, home)
			}
			switch {
			case err == nil:
				made.Add(1)
			case errs.KindOf(err) == errs.Conflict:
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, made.Load())
	require.EqualValues(t, 9, taken.Load())
	require.Equal(t, 1, f.count(t, `select count(*) from msg.outbox`))
}

func TestTokensSayWhoAndAreStoredHashed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	tokens := f.login(t, "ANN@example.com")
	p, err := f.verifier.Verify(t.Context(), tokens.Access)
	require.NoError(t, err)
	require.Equal(t, u.ID, p.UserID)
	require.Equal(t, authn.Customer, p.Role)
	require.Equal(t, 1, f.count(t, `select count(*) from sessions where id = $1 and user_id = $2`, p.SessionID, u.ID))
	require.Equal(t, f.clock.now().Add(15*time.Minute).Unix(), p.Expires.Unix())

	require.Equal(t, 1, f.count(t, `select count(*) from refresh_tokens where hash = sha256($1)`, []byte(tokens.Refresh)))
	require.Zero(t, f.count(t, `select count(*) from refresh_tokens r where r::text like '%' || $1 || '%'`, tokens.Refresh))
	require.Zero(t, f.count(t, `select count(*) from users u where u::text like '%' || $1 || '%'`, good))
}

func TestLoginAgainstPasswordChangeLeavesNoSessionOfTheOldPassword(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	tokens := f.login(t, "ann@example.com")
	p, err := f.verifier.Verify(t.Context(), tokens.Access)
	require.NoError(t, err)
	// The change commits between the login's look at the password and its session.
	c, err := selectCredentials(t.Context(), f.db.Pool, u.Email, home.IP)
	require.NoError(t, err)
	require.NoError(t, f.ChangePassword(t.Context(), u.ID, p.SessionID, good, "a better password", home))
	_, err = f.begin(t.Context(), c, "", nil, home)
	require.ErrorIs(t, err, errPasswordChanged)
	require.Equal(t, 1, f.count(t, `select count(*) from sessions`))
}

func TestOldParametersAreUpgradedAtLogin(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	old, err := hashPassword(good, params{memory: 8 << 10, time: 1, threads: 1})
	require.NoError(t, err)
	f.exec(t, `update users set password_hash = $1`, old)
	_, err = f.Login(t.Context(), u.Email, "wrong password", home)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
	require.Equal(t, 1, f.count(t, `select count(*) from users where password_hash = $1`, old))
	f.login(t, u.Email)
	_, hash, err := selectHash(t.Context(), f.db.Pool, u.ID)
	require.NoError(t, err)
	p, _, _, err := parseHash(hash)
	require.NoError(t, err)
	require.Equal(t, current, p)
	f.login(t, u.Email)
}

func TestLoginsAtOnceSurviveTheUpgrade(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	old, err := hashPassword(good, params{memory: 8 << 10, time: 1, threads: 1})
	require.NoError(t, err)
	f.exec(t, `update users set password_hash = $1`, old)
	var wg sync.WaitGroup
	failures := make(chan error, 8)
	for range cap(failures) {
		wg.Go(func() {
			if _, err := f.Login(context.Background(), u.Email, good, home); err != nil {
				failures <- err
			}
		})
	}
	wg.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err, "another login replaced the hash between compare and commit")
	}
}

func TestLoginStormIsAnsweredNotHashed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	f.hasher.wait = 10 * time.Millisecond
	for range cap(f.hasher.slots) {
		release, err := f.hasher.acquire(t.Context())
		require.NoError(t, err)
		defer release()
	}
	_, err := f.Login(t.Context(), "ann@example.com", good, home)
	require.Equal(t, errs.Unavailable, errs.KindOf(err))
	_, err = f.Register(t.Context(), NewUser{Email: "bob@example.com", Password: good, Name: "Bob"}, home)
	require.Equal(t, errs.Unavailable, errs.KindOf(err))
	require.Zero(t, f.count(t, `select count(*) from login_failures`), "a crowd is not an attack")
}

func TestFirstAdminIsMadeOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var wg sync.WaitGroup
	for _, email := range []string{"admin@tiffin.local", "admin@tiffin.local", "b@tiffin.local", "c@tiffin.local"} {
		wg.Go(func() {
			if err := f.EnsureAdmin(context.Background(), email, good); err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, f.count(t, `select count(*) from users where role = 'Admin'`))
	require.Equal(t, 1, f.count(t, `select count(*) from msg.outbox`))
	require.NoError(t, f.EnsureAdmin(t.Context(), "second@tiffin.local", good))
	require.Equal(t, 1, f.count(t, `select count(*) from users`))
}

func TestRegisteredAccountIsNotPromotedByTheEnvironment(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "Admin@tiffin.local")
	require.NoError(t, f.EnsureAdmin(t.Context(), "admin@tiffin.local", "the operator's password"))
	require.Zero(t, f.count(t, `select count(*) from users where role = 'Admin'`))
}

func TestAdminsWhoAllResignLeaveOne(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var admins []uuid.UUID
	for _, email := range []string{"a@example.com", "b@example.com", "c@example.com"} {
		admins = append(admins, f.register(t, email).ID)
	}
	f.exec(t, `update users set role = 'Admin'`)
	var refused atomic.Int64
	var wg sync.WaitGroup
	for _, id := range admins {
		wg.Go(func() {
			_, err := f.SetRole(context.Background(), id, id, "Customer", home)
			if errs.KindOf(err) == errs.Conflict {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, refused.Load())
	require.Equal(t, 1, f.count(t, `select count(*) from users where role = 'Admin'`))
	require.Equal(t, 2, f.count(t, `select count(*) from audit_log where kind = 'role_changed' and actor_id is not null`))
}

func TestADemotedAdminsOldTokenMakesNoAdmins(t *testing.T) {
	t.Parallel()
	f := setup(t)
	boss, eve, friend := f.register(t, "boss@example.com"), f.register(t, "eve@example.com"), f.register(t, "friend@example.com")
	f.exec(t, `update users set role = 'Admin' where id in ($1, $2)`, boss.ID, eve.ID)
	_, err := f.SetRole(t.Context(), boss.ID, eve.ID, "Customer", home)
	require.NoError(t, err)
	for _, who := range []uuid.UUID{eve.ID, friend.ID} {
		_, err = f.SetRole(t.Context(), eve.ID, who, "Admin", home)
		require.Equal(t, errs.Forbidden, errs.KindOf(err))
	}
	_, err = f.SetRole(t.Context(), eve.ID, boss.ID, "Customer", home)
	require.Equal(t, errs.Forbidden, errs.KindOf(err))
	require.Equal(t, 1, f.count(t, `select count(*) from users where role = 'Admin'`))
}

func TestAuditTellsWhatHappenedWithoutSecrets(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	tokens := f.login(t, u.Email)
	p, err := f.verifier.Verify(t.Context(), tokens.Access)
	require.NoError(t, err)
	_, err = f.Login(t.Context(), u.Email, "wrong password", home)
	require.Error(t, err)
	_, err = f.Login(t.Context(), "hunter2-typed-as-address@x.y", "wrong password", home)
	require.Error(t, err)
	require.Error(t, f.ChangePassword(t.Context(), u.ID, p.SessionID, "wrong password", "a better password", home))
	require.NoError(t, f.ChangePassword(t.Context(), u.ID, p.SessionID, good, "a better password", home))
	require.NoError(t, f.EndSession(t.Context(), u.ID, p.SessionID, home))

	rows, err := f.db.Pool.Query(t.Context(), `select kind || coalesce(' ' || (user_id = $1)::text, '') from audit_log order by id`, u.ID)
	require.NoError(t, err)
	var kinds []string
	for rows.Next() {
		var k string
		require.NoError(t, rows.Scan(&k))
		kinds = append(kinds, k)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []string{
		"user_registered true", "login true", "login_failed true", "login_failed",
		"password_change_failed true", "password_changed true", "session_revoked true",
	}, kinds)
	for _, secret := range []string{good, "wrong password", "better", "hunter2", tokens.Refresh} {
		require.Zero(t, f.count(t, `select count(*) from audit_log a where a::text like '%' || $1 || '%'`, secret))
	}
	_, err = prune(t.Context(), f.db.Pool, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, f.count(t, `select count(*) from audit_log`))
}
