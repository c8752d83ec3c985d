package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// address returns the nth of many client addresses.
func address(n int) Client {
	return Client{IP: netip.AddrFrom4([4]byte{203, 0, byte(n >> 8), byte(n)})}
}

// age lets time pass for the buckets.
func (f *fixture) age(t *testing.T, by time.Duration) {
	t.Helper()
	f.exec(t, `update login_failures set updated_at = updated_at - make_interval(secs => $1)`, by.Seconds())
}

// allowed is how many tries pass from start on: buckets drain while tests run.
func (r rate) allowed(start time.Time) int {
	return int(r.burst) + int(time.Since(start)/r.every) + 1
}

func TestGuessesAtOneAccountFromManyAddressesAreLimited(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	f.login(t, u.Email) // home is familiar from now on

	start := time.Now()
	wrong, limited := 0, 0
	for n := range 49 {
		_, err := f.Login(t.Context(), u.Email, "wrong password", address(n))
		switch errs.KindOf(err) {
		case errs.Unauthenticated:
			wrong++
		case errs.RateLimited:
			limited++
			e, _ := errors.AsType[*errs.Error](err)
			require.Positive(t, e.RetryAfter)
			require.LessOrEqual(t, e.RetryAfter, 2*time.Minute)
		}
	}
	require.GreaterOrEqual(t, wrong, int(perAccount.burst))
	require.LessOrEqual(t, wrong, perAccount.allowed(start))
	require.Equal(t, 49-wrong, limited)
	f.fill(t)

	// The right password from elsewhere waits as well, or guessing would go on.
	_, err := f.Login(t.Context(), u.Email, good, address(77))
	require.Equal(t, errs.RateLimited, errs.KindOf(err))
	// The owner, where he was before, does not even notice.
	f.login(t, u.Email)
	// Elsewhere he gets in within two minutes of the attack's end.
	f.age(t, 2*time.Minute)
	_, err = f.Login(t.Context(), u.Email, good, address(78))
	require.NoError(t, err)
}

func TestGuessesFromOneAddressAtManyAccountsAreLimited(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	attacker := from("203.0.113.5")
	start := time.Now()
	wrong := 0
	for n := range 49 {
		_, err := f.Login(t.Context(), fmt.Sprintf("user%d@example.com", n), "wrong password", attacker)
		if errs.KindOf(err) == errs.Unauthenticated {
			wrong++
		} else {
			require.Equal(t, errs.RateLimited, errs.KindOf(err))
		}
	}
	require.GreaterOrEqual(t, wrong, int(perAddress.burst))
	require.LessOrEqual(t, wrong, perAddress.allowed(start))
	f.login(t, u.Email) // others are not concerned
	f.age(t, 30*time.Second)
	_, err := f.Login(t.Context(), u.Email, good, attacker)
	require.NoError(t, err)
}

func TestGuessesAtOnceAreNotFree(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	start := time.Now()
	var wrong atomic.Int64
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			if _, err := f.Login(context.Background(), u.Email, "wrong password", address(n)); errs.KindOf(err) == errs.Unauthenticated {
				wrong.Add(1)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, int(wrong.Load()), perAccount.allowed(start))
}

// Who knew the password was there too: when it is changed his network is no
// place of the owner's any more, or he would go on with guesses of his own.
func TestAnEvictedIntrudersNetworkIsNotFamiliar(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	familiar := func(who Client) bool {
		c, err := selectCredentials(t.Context(), f.db.Pool, u.Email, who.IP)
		require.NoError(t, err)
		return c.Familiar
	}
	intruder, office := from("203.0.113.66"), from("203.0.113.7")
	p, err := f.verifier.Verify(t.Context(), f.login(t, u.Email).Access)
	require.NoError(t, err)
	for _, who := range []Client{intruder, office} {
		require.False(t, familiar(who))
		tokens, err := f.Login(t.Context(), u.Email, good, who)
		require.NoError(t, err)
		require.True(t, familiar(who))
		if who == office {
			require.NoError(t, f.Logout(t.Context(), tokens.Refresh, who))
			require.True(t, familiar(who), "who logs out comes back")
		}
	}
	require.NoError(t, f.ChangePassword(t.Context(), u.ID, p.SessionID, good, "a better password", home))
	require.False(t, familiar(intruder))
	require.True(t, familiar(home))
}

// A flood of tries that are refused anyway must not take the turns of others.
func TestLimitedTriesDoNotWaitForTheHasher(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	for n := range int(perAccount.burst) {
		_, err := f.Login(t.Context(), u.Email, "wrong password", address(n))
		require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
	}
	f.fill(t)
	for range cap(f.hasher.slots) {
		release, err := f.hasher.acquire(t.Context())
		require.NoError(t, err)
		defer release()
	}
	_, err := f.Login(t.Context(), u.Email, "wrong password", address(99))
	require.Equal(t, errs.RateLimited, errs.KindOf(err))
}

func TestGoodLoginsDoNotCount(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	for range int(perAccount.burst) + 5 {
		f.login(t, u.Email)
	}
	var level float64
	require.NoError(t, f.db.Pool.QueryRow(t.Context(), `select coalesce(max(level), 0)::float8 from login_failures`).Scan(&level))
	require.Less(t, level, 0.5)
}

// fill makes every bucket full now, whatever drained meanwhile.
func (f *fixture) fill(t *testing.T) {
	t.Helper()
	f.exec(t, `update login_failures set updated_at = clock_timestamp() where level > 5`)
}

func TestUnknownUsersAreThrottledLikeKnownOnes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	var answers [2]map[string]bool
	for i, email := range []string{u.Email, "nobody@example.com"} {
		answers[i] = map[string]bool{}
		for n := range int(perAccount.burst) + 5 {
			_, err := f.Login(t.Context(), email, "wrong password", address(1000*i+n))
			require.Error(t, err)
			answers[i][err.Error()] = true
			if n < int(perAccount.burst) {
				require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
			}
		}
	}
	require.Len(t, answers[0], 2)
	require.Equal(t, answers[0], answers[1])
}

func TestUnknownUserTakesTheTimeOfAHash(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	// The fastest of some, taken in turn: what else the machine does only adds.
	// A hash takes some 30 ms, everything else 2: without one the ratio is 10, and
	// no number of rounds makes it 3.
	fastest := map[string]time.Duration{u.Email: time.Hour, "nobody@example.com": time.Hour}
	var known, unknown float64
	for range 10 {
		for n := range int(perAccount.burst) {
			for email := range fastest {
				start := time.Now()
				_, err := f.Login(t.Context(), email, "wrong password", address(n))
				require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
				fastest[email] = min(fastest[email], time.Since(start))
			}
		}
		known, unknown = fastest[u.Email].Seconds(), fastest["nobody@example.com"].Seconds()
		if known < 3*unknown && unknown < 3*known {
			return
		}
		f.exec(t, `delete from login_failures`)
	}
	require.Fail(t, "one answers sooner than the other", "known %f s, unknown %f s", known, unknown)
}

func TestPasswordGuessesWithAStolenTokenAreLimited(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	p, err := f.verifier.Verify(t.Context(), f.login(t, u.Email).Access)
	require.NoError(t, err)
	start := time.Now()
	wrong := 0
	for n := range 20 {
		err := f.ChangePassword(t.Context(), u.ID, p.SessionID, "wrong password", "a better password", address(n))
		if errs.KindOf(err) == errs.Forbidden {
			wrong++
		} else {
			require.Equal(t, errs.RateLimited, errs.KindOf(err))
		}
	}
	require.LessOrEqual(t, wrong, perAccount.allowed(start))
	f.fill(t)
	_, err = f.Login(t.Context(), u.Email, good, address(99))
	require.NoError(t, err, "whoever has a token cannot keep the owner from logging in")
}
