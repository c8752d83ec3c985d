package measure

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	require.True(t, math.IsNaN(Median(nil)))
	require.InDelta(t, 3.0, Median([]float64{3}), 0)
	require.InDelta(t, 2.5, Median([]float64{4, 1, 2, 3}), 0)
	xs := []float64{9, 1, 5}
	require.InDelta(t, 5.0, Median(xs), 0)
	require.Equal(t, []float64{9, 1, 5}, xs, "the caller's order stays")
}

func TestQuantileIsNearestRank(t *testing.T) {
	t.Parallel()
	var xs []int
	for i := range 100 {
		xs = append(xs, 100-i)
	}
	require.Equal(t, 50, Quantile(xs, 0.5))
	require.Equal(t, 99, Quantile(xs, 0.99))
	require.Equal(t, 100, Quantile(xs, 0.999))
	require.Equal(t, 1, Quantile(xs, 0))
	require.Equal(t, 100, Quantile(xs, 1))
	require.Zero(t, Quantile([]int(nil), 0.5))
	// With ten samples the 99th percentile is the worst one, not an interpolation.
	require.Equal(t, 10, Quantile([]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 0.99))
}

func TestLatencies(t *testing.T) {
	t.Parallel()
	var l Latencies
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() { l.Add(time.Duration(i+1) * time.Millisecond) })
	}
	wg.Wait()
	require.Equal(t, 100, l.Len())
	require.InDelta(t, 99.0, l.Quantile(0.99), 0)
}

func TestRoundsInterleave(t *testing.T) {
	t.Parallel()
	var order []string
	take := func(name string, every int) Case {
		return Case{Name: name, Every: every, Run: func(context.Context) (Result, error) {
			order = append(order, name)
			return Result{"n": float64(len(order))}, nil
		}}
	}
	s, err := Rounds(t.Context(), 3, []Case{take("a", 0), take("b", 0), take("slow", 3)}, t.Logf)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "slow", "b", "a", "a", "b"}, order)
	require.Equal(t, []float64{1, 5, 6}, s["a"]["n"])
	require.InDelta(t, 5.0, s.Median("a", "n"), 0)
	require.Equal(t, "a", s.Best("n", false, "a", "b", "never ran"))
	require.Equal(t, "b", s.Best("n", true, "a", "b", "never ran"))

	_, err = Rounds(t.Context(), 1, []Case{{Name: "bad", Run: func(context.Context) (Result, error) {
		return nil, errors.New("no broker")
	}}}, t.Logf)
	require.EqualError(t, err, "bad, round 1: no broker")
}

func TestTable(t *testing.T) {
	t.Parallel()
	table := Table{Title: "Relay", Header: []string{"", "events/s", "ratio"}}
	table.Add("ours", Number(61234.4), Ratio(12.34))
	table.Add("other", Number(math.NaN()), Ratio(math.NaN()))
	var out bytes.Buffer
	table.Print(&out)
	require.Equal(t, `
**Relay**

|       | events/s | ratio |
| ----- | -------: | ----: |
| ours  |    61234 | 12.3x |
| other |        - |     - |
`, out.String())
	require.Equal(t, "2.00 (1.00 to 30.0)", Spread([]float64{1, 30, 2}))
	require.Equal(t, "-", Spread(nil))
}

// A call that is stuck neither delays the next ones nor hides their lateness.
func TestPaceIsAnOpenLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var wg sync.WaitGroup
		var late atomic.Int64
		wg.Add(100)
		Pace(t.Context(), 100, 100, func(i int, due time.Time) {
			defer wg.Done()
			if want := began.Add(time.Duration(i) * 10 * time.Millisecond); !due.Equal(want) || !time.Now().Equal(want) {
				late.Add(1)
			}
			_ = Wait(context.Background(), time.Hour)
		})
		require.Equal(t, 990*time.Millisecond, time.Since(began))
		wg.Wait()
		require.Zero(t, late.Load())
	})
}

func TestPaceEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Pace(ctx, 1e9, 1000, func(int, time.Time) { t.Error("called") })
	require.ErrorIs(t, Wait(ctx, time.Hour), context.Canceled)
	require.ErrorIs(t, Until(ctx, func() (bool, error) { return false, nil }), context.Canceled)
	require.NoError(t, Until(ctx, func() (bool, error) { return true, nil }))
}
