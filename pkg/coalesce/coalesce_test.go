package coalesce_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/coalesce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets the bubble's time pass.
func pass(d time.Duration) { <-time.After(d) }

func TestCallsThatComeWhileOneRunsGoTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sizes []int // of one goroutine at a time, which the race detector checks
		squares := coalesce.New(4, time.Minute, func(ctx context.Context, n []int) ([]int, error) {
			sizes = append(sizes, len(n))
			pass(time.Second)
			all := make([]int, len(n))
			for i := range n {
				all[i] = n[i] * n[i]
			}
			return all, nil
		})
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if i > 0 {
					pass(time.Millisecond)
				}
				got, err := squares.Do(t.Context(), i)
				require.NoError(t, err)
				require.Equal(t, i*i, got)
			})
		}
		wg.Wait()
		require.Equal(t, []int{1, 4, 4, 1}, sizes)

		_, err := squares.Do(t.Context(), 1) // after all had gone
		require.NoError(t, err)
	})
}

// Those who are woken by one event ask one after the other, in the order in which
// the scheduler gets to them.
func TestCallsThatAreAboutToBeMadeGoTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one after the other
	var sizes []int
	calls := coalesce.New(100, time.Minute, func(_ context.Context, n []int) ([]int, error) {
		sizes = append(sizes, len(n))
		return n, nil
	})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for range i {
				runtime.Gosched()
			}
			_, err := calls.Do(t.Context(), i)
			require.NoError(t, err)
		})
	}
	wg.Wait()
	require.LessOrEqual(t, len(sizes), 3, "%v", sizes) // the race detector shuffles the scheduler's queue
}

func TestNoCallFailsForAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := coalesce.New(4, time.Minute, func(_ context.Context, n []int) ([]int, error) {
			pass(time.Second)
			if slices.Contains(n, 2) {
				return nil, fmt.Errorf("broken among %d", len(n))
			}
			return n, nil
		})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				got, err := calls.Do(t.Context(), i)
				if i == 2 {
					require.EqualError(t, err, "broken among 1")
					return
				}
				require.NoError(t, err)
				require.Equal(t, i, got)
			})
		}
		wg.Wait()
	})
	short := coalesce.New(4, time.Minute, func(context.Context, []int) ([]int, error) { return nil, nil })
	_, err := short.Do(t.Context(), 1)
	require.EqualError(t, err, "0 answers to 1 questions")
}

// A panic is the caller's own too, who may know how to go on.
func TestAPanicIsItsCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := coalesce.New(4, time.Minute, func(_ context.Context, n []int) ([]int, error) {
			pass(time.Second)
			if slices.Contains(n, 2) {
				panic("broken")
			}
			return n, nil
		})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				defer func() {
					v := recover()
					require.Equal(t, i == 2, v != nil)
					if v != nil {
						require.Contains(t, v, "broken\n")
						require.Contains(t, v, "coalesce_test.go", "where it was")
					}
				}()
				got, err := calls.Do(t.Context(), i)
				require.NoError(t, err)
				require.Equal(t, i, got)
			})
		}
		wg.Wait()
	})
}

// Work goes on while anybody waits for it, within its limit.
func TestWhoLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked [][]int
		var ended []time.Duration
		started := time.Now()
		calls := coalesce.New(2, time.Minute, func(ctx context.Context, n []int) ([]int, error) {
			asked = append(asked, n)
			<-ctx.Done()
			ended = append(ended, time.Since(started))
			return nil, ctx.Err()
		})
		var wg sync.WaitGroup
		for i, leaves := range []time.Duration{
			10 * time.Second, // the only one of its kind
			5 * time.Second,  // while it waits for its turn
			20 * time.Second, 30 * time.Second,
			time.Hour,
		} {
			wg.Go(func() {
				pass(time.Duration(i) * time.Millisecond)
				ctx, cancel := context.WithDeadline(t.Context(), started.Add(leaves))
				defer cancel()
				_, err := calls.Do(ctx, i)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, min(leaves, 90*time.Second), time.Since(started))
			})
		}
		wg.Wait()
		require.Equal(t, [][]int{{0}, {2, 3}, {4}}, asked)
		require.Equal(t, []time.Duration{10 * time.Second, 30 * time.Second, 90 * time.Second}, ended)
	})
}
