package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
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

func TestGuessesAtOneAccountFromManyAddressesAreLimited(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	f.login(t, u.Email) // home is familiar from now on

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
	require.Equal(t, int(perAccount.burst), wrong)
	require.Equal(t, 49-wrong, limited)

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
	wrong := 0
	for n := range 49 {
		_, err := f.Login(t.Context(), fmt.Sprintf("user%d@example.com", n), "wrong password", attacker)
		if errs.KindOf(err) == errs.Unauthenticated {
			wrong++
		} else {
			require.Equal(t, errs.RateLimited, errs.KindOf(err))
		}
	}
	// One token may have drained in the time this took.
	require.InDelta(t, perAddress.burst, wrong, 2)
	f.login(t, u.Email) // others are not concerned
	f.age(t, 30*time.Second)
	_, err := f.Login(t.Context(), u.Email, good, attacker)
	require.NoError(t, err)
}

func TestGuessesAtOnceAreNotFree(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
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
	require.LessOrEqual(t, wrong.Load(), int64(perAccount.burst)+1)
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

func TestUnknownUsersAreThrottledLikeKnownOnes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	var answers [2][]string
	for i, email := range []string{u.Email, "nobody@example.com"} {
		for n := range int(perAccount.burst) + 3 {
			_, err := f.Login(t.Context(), email, "wrong password", address(1000*i+n))
			require.Error(t, err)
			answers[i] = append(answers[i], err.Error())
		}
	}
	require.Equal(t, answers[0], answers[1])
}

func TestUnknownUserTakesTheTimeOfAHash(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	median := func(email string) time.Duration {
		var took []time.Duration
		for n := range 7 {
			start := time.Now()
			_, err := f.Login(t.Context(), email, "wrong password", address(n))
			require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	known, unknown := median(u.Email), median("nobody@example.com")
	// A hash takes some 30 ms, everything else 2: without one the ratio is 10.
	require.Less(t, known.Seconds(), 3*unknown.Seconds(), "known %s, unknown %s", known, unknown)
	require.Less(t, unknown.Seconds(), 3*known.Seconds(), "known %s, unknown %s", known, unknown)
}

func TestPasswordGuessesWithAStolenTokenAreLimited(t *testing.T) {
	t.Parallel()
	f := setup(t)
	u := f.register(t, "ann@example.com")
	p, err := f.verifier.Verify(t.Context(), f.login(t, u.Email).Access)
	require.NoError(t, err)
	wrong := 0
	for n := range 20 {
		err := f.ChangePassword(t.Context(), u.ID, p.SessionID, "wrong password", "a better password", address(n))
		if errs.KindOf(err) == errs.Forbidden {
			wrong++
		} else {
			require.Equal(t, errs.RateLimited, errs.KindOf(err))
		}
	}
	require.Equal(t, int(perAccount.burst), wrong)
	f.login(t, u.Email)
}
