// Package measure turns repeated runs into figures that can be compared:
// quantiles, medians of interleaved rounds, ratios and a table of them.
package measure

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

// Median returns the middle of xs, the mean of the two middles when their
// number is even, and NaN of nothing.
func Median(xs []float64) float64 {
	if len(xs) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(xs))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// Quantile returns the smallest of xs that at least the share q of them does
// not exceed (nearest rank), and the zero value of nothing. It sorts xs.
func Quantile[T cmp.Ordered](xs []T, q float64) T {
	if len(xs) == 0 {
		var zero T
		return zero
	}
	slices.Sort(xs)
	rank := int(math.Ceil(q*float64(len(xs)))) - 1
	return xs[max(0, min(rank, len(xs)-1))]
}

// Millis is d in milliseconds, the unit of every latency in the tables.
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Latencies collects durations from any number of goroutines.
type Latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

// Add records one.
func (l *Latencies) Add(d time.Duration) {
	l.mu.Lock()
	l.all = append(l.all, d)
	l.mu.Unlock()
}

// Len returns how many there are.
func (l *Latencies) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all)
}

// Quantile returns a quantile in milliseconds.
func (l *Latencies) Quantile(q float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Millis(Quantile(l.all, q))
}
