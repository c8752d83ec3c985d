package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// ringing runs a doorbell, as a replica of its own, until the test ends.
func ringing(t *testing.T, pool *pgxpool.Pool) *postgres.Doorbell {
	t.Helper()
	bell := postgres.NewDoorbell(pool, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bell.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return bell
}

// rung drains the wake-up that a subscriber gets when its replica connects,
// then reports whether ring leads to another one.
func rung(t *testing.T, wake <-chan struct{}, ring func()) {
	t.Helper()
	require.Eventually(t, func() bool {
		ring()
		select {
		case <-wake:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	}, 10*time.Second, time.Millisecond)
}

func TestDoorbellWithinTheProcessWithoutRun(t *testing.T) {
	t.Parallel()
	bell := postgres.NewDoorbell(open(t, "postgres://localhost:1/x"), slog.New(slog.DiscardHandler))
	wake, stop := bell.Subscribe("order-1")
	other, stopOther := bell.Subscribe("order-2")
	defer stopOther()
	for range 100_000 {
		bell.Ring("order-1", "order-3") // never blocks, though nobody sends
	}
	require.Len(t, wake, 1)
	require.Empty(t, other)
	<-wake
	stop()
	bell.Ring("order-1")
	require.Empty(t, wake)
}

func TestDoorbellWakesOtherReplicas(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, nil)
	here, there := ringing(t, pool), ringing(t, pool)
	wake, stop := there.Subscribe("order-1")
	defer stop()
	rung(t, wake, func() { here.Ring("order-1") })
	// Now that it listens, one ring is enough, and only for its key.
	wake, stop = there.Subscribe("order-2")
	defer stop()
	other, stopOther := there.Subscribe("order-3")
	defer stopOther()
	here.Ring("order-2")
	select {
	case <-wake:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "not woken")
	}
	require.Empty(t, other)
}

func TestDoorbellCarriesMoreKeysThanFit(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, nil)
	here, there := ringing(t, pool), ringing(t, pool)
	wake, stop := there.Subscribe("the-last-key")
	defer stop()
	keys := make([]string, 2000)
	for i := range keys {
		keys[i] = fmt.Sprintf("order-%d", i)
	}
	rung(t, wake, func() { here.Ring(append(keys, "the-last-key")...) })
}

func TestDoorbellReconnects(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, nil)
	here, there := ringing(t, pool), ringing(t, pool)
	wake, stop := there.Subscribe("order-1")
	defer stop()
	rung(t, wake, func() { here.Ring("order-1") })
	_, err := pool.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity
		where datname = current_database() and pid <> pg_backend_pid()`)
	require.NoError(t, err)
	// A subscriber is woken after the gap: what was rung in it is lost.
	select {
	case <-wake:
	case <-time.After(10 * time.Second):
		require.FailNow(t, "not woken after the connection was cut")
	}
	rung(t, wake, func() { here.Ring("order-1") })
}

func TestDoorbellTellsNobodyWhileNobodyElseListens(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, nil)
	here := ringing(t, pool)
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	_, err = conn.Exec(t.Context(), `listen tiffin_doorbell`)
	require.NoError(t, err)
	told := func() bool {
		here.Ring("order-1")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := conn.WaitForNotification(ctx)
		return err == nil
	}
	// What it cannot know yet, it takes for so.
	require.Eventually(t, func() bool { return !told() }, 30*time.Second, time.Millisecond)
	require.False(t, told())

	there := ringing(t, pool)
	wake, stop := there.Subscribe("order-1")
	defer stop()
	rung(t, wake, func() { here.Ring("order-1") })
	require.True(t, told())
}
