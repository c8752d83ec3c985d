package order

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// Several replicas sweep at once: every overdue order is cancelled, once.
func TestOverdueOrdersAreCancelledOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = sweepBatch + 20
	for range n {
		w.place()
	}
	w.pass(time.Second)
	paid, fresh := w.place(), w.place()
	require.NoError(t, w.completed(paid))
	w.pass(deadline - time.Second)
	var mu sync.Mutex
	total := 0
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			n, err := w.CancelOverdue(t.Context())
			mu.Lock()
			defer mu.Unlock()
			total += n
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.Equal(t, n, total)
	require.Equal(t, Confirmed, w.get(paid.ID).Status)
	require.Equal(t, Pending, w.get(fresh.ID).Status)
	list, err := w.List(t.Context(), Filter{Status: Cancelled, Limit: 1000})
	require.NoError(t, err)
	require.Len(t, list, n)
	require.Equal(t, []string{tlCreated, `order.cancelled {"from":"pending","reason":"payment_timeout"}`}, w.timeline(list[0].ID))
	var events int
	require.NoError(t, w.db.Pool.QueryRow(t.Context(), `select count(*) from msg.outbox where topic = 'order.cancelled'`).Scan(&events))
	require.Equal(t, n, events)
}

func TestRunSweepsUntilItEnds(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	w.pass(deadline)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	require.Eventually(t, func() bool {
		got, err := w.Get(t.Context(), Actor{Admin: true}, o.ID)
		return err == nil && got.Status == Cancelled
	}, 10*time.Second, 20*time.Millisecond)
	stop()
	require.NoError(t, <-done)
}
