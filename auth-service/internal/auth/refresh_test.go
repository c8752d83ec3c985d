package auth

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestRefreshRotates(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	first := f.login(t, "ann@example.com")
	second, err := f.Refresh(t.Context(), first.Refresh, from("203.0.113.7"))
	require.NoError(t, err)
	require.NotEqual(t, first.Refresh, second.Refresh)
	a, err := f.verifier.Verify(t.Context(), first.Access)
	require.NoError(t, err)
	b, err := f.verifier.Verify(t.Context(), second.Access)
	require.NoError(t, err)
	require.Equal(t, a.SessionID, b.SessionID, "the session goes on")
	require.NotEqual(t, first.Access, second.Access)
	require.Equal(t, 1, f.count(t, `select count(*) from sessions where ip = '203.0.113.7'`))
	third, err := f.Refresh(t.Context(), second.Refresh, home)
	require.NoError(t, err)
	require.NotEmpty(t, third.Refresh)

	for _, unknown := range []string{"x", first.Refresh + "x", strings.ToLower(first.Refresh), strings.Repeat("A", 43), first.Access} {
		_, err = f.Refresh(t.Context(), unknown, home)
		require.Equal(t, errs.Unauthenticated, errs.KindOf(err), unknown)
	}
}

func TestRefreshReuseWithinTheGraceDoesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	first := f.login(t, "ann@example.com")
	second, err := f.Refresh(t.Context(), first.Refresh, home)
	require.NoError(t, err)
	tokens, err := f.Refresh(t.Context(), first.Refresh, home)
	require.Equal(t, errs.Conflict, errs.KindOf(err))
	require.Zero(t, tokens)
	require.Equal(t, 2, f.count(t, `select count(*) from refresh_tokens`))
	require.Zero(t, f.count(t, `select count(*) from sessions where revoked_at is not null`))
	_, err = f.Refresh(t.Context(), second.Refresh, home)
	require.NoError(t, err, "the rotated pair is untouched")
}

func TestRefreshReuseAfterTheGraceRevokesTheFamily(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	other := f.login(t, "ann@example.com")
	first := f.login(t, "ann@example.com")
	second, err := f.Refresh(t.Context(), first.Refresh, home)
	require.NoError(t, err)
	third, err := f.Refresh(t.Context(), second.Refresh, home)
	require.NoError(t, err)
	// An old one, not only the last, is known when it comes again.
	f.exec(t, `update refresh_tokens set used_at = used_at - interval '61 s' where hash = $1`, hashRefresh(first.Refresh))
	_, err = f.Refresh(t.Context(), first.Refresh, from("203.0.113.66"))
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))

	_, err = f.Refresh(t.Context(), third.Refresh, home)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err), "the live branch is dead too")
	_, err = f.Refresh(t.Context(), second.Refresh, home)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err), "also within its grace")
	require.Equal(t, 1, f.count(t, `select count(*) from audit_log where kind = 'refresh_reuse' and ip = '203.0.113.66'`))
	_, err = f.Refresh(t.Context(), other.Refresh, home)
	require.NoError(t, err, "another session of the same user lives on")
}

func TestExpiredRefreshTokenEnds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	tokens := f.login(t, "ann@example.com")
	f.exec(t, `update refresh_tokens set expires_at = now() - interval '1 s'`)
	_, err := f.Refresh(t.Context(), tokens.Refresh, home)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
	f.exec(t, `update sessions set expires_at = now() - interval '1 s'`)
	_, err = prune(t.Context(), f.db.Pool, f.now())
	require.NoError(t, err)
	require.Zero(t, f.count(t, `select count(*) from sessions`)+f.count(t, `select count(*) from refresh_tokens`))
}

func TestTwentyClientsRefreshingOneTokenLeaveOneBranch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	tokens := f.login(t, "ann@example.com")
	var mu sync.Mutex
	var won []Tokens
	kinds := map[errs.Kind]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			next, err := f.Refresh(context.Background(), tokens.Refresh, home)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, next)
			} else {
				kinds[errs.KindOf(err)]++
			}
		})
	}
	wg.Wait()
	require.Len(t, won, 1)
	require.Equal(t, map[errs.Kind]int{errs.Conflict: 19}, kinds)
	require.Equal(t, 1, f.count(t, `select count(*) from refresh_tokens where used_at is null`))
	_, err := f.Refresh(t.Context(), won[0].Refresh, home)
	require.NoError(t, err)
	// Even a defect in the code could not make a second one.
	_, err = f.db.Pool.Exec(t.Context(), `insert into refresh_tokens (hash, session_id, expires_at) select 'x', id, now() from sessions`)
	require.True(t, postgres.IsUnique(err, "refresh_tokens_live"), err)
}

// The session's lock decides who is first, before anybody looks at the token.
func TestRefreshesWaitForEachOther(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	tokens := f.login(t, "ann@example.com")
	errors := make(chan error, 2)
	require.NoError(t, f.db.InTx(t.Context(), func(tx *outbox.Tx) error {
		_, err := tx.Exec(t.Context(), `select 1 from sessions for no key update`)
		require.NoError(t, err)
		for range cap(errors) {
			go func() { _, err := f.Refresh(context.Background(), tokens.Refresh, home); errors <- err }()
		}
		require.Eventually(t, func() bool {
			return f.count(t, `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 2
		}, time.Minute, 5*time.Millisecond)
		return nil
	}))
	kinds := map[errs.Kind]int{}
	for range cap(errors) {
		if err := <-errors; err != nil {
			require.Equal(t, errs.Conflict, errs.KindOf(err), err)
			kinds[errs.KindOf(err)]++
		}
	}
	require.Equal(t, map[errs.Kind]int{errs.Conflict: 1}, kinds)
}

func TestRefreshAgainstLogoutLeavesNothingAlive(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.register(t, "ann@example.com")
	for range 10 {
		tokens := f.login(t, "ann@example.com")
		var next Tokens
		var refreshed error
		var wg sync.WaitGroup
		wg.Go(func() { next, refreshed = f.Refresh(context.Background(), tokens.Refresh, home) })
		wg.Go(func() { _ = f.Logout(context.Background(), tokens.Refresh, home) })
		wg.Wait()
		if refreshed == nil {
			_, err := f.Refresh(t.Context(), next.Refresh, home)
			require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
		}
	}
	require.Zero(t, f.count(t, `select count(*) from sessions where revoked_at is null`))
}
