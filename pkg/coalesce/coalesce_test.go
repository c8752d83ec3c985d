package coalesce_test

import (
	"context"
	"fmt"
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

// A caller that leaves takes nothing from the others, and work that hangs ends.
func TestLeavingAndTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangs := coalesce.New(4, time.Minute, func(ctx context.Context, n []int) ([]int, error) {
			if n[0] == 0 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return n, nil
		})
		started := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := hangs.Do(ctx, 0)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(started))
		})
		wg.Go(func() {
			pass(time.Millisecond)
			got, err := hangs.Do(t.Context(), 7)
			require.NoError(t, err)
			require.Equal(t, 7, got)
			require.Equal(t, time.Minute, time.Since(started))
		})
		wg.Wait()
	})
}
