package measure

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Result is what one run measured, by the name of the figure.
type Result map[string]float64

// String lists the figures by name.
func (r Result) String() string {
	var parts []string
	for _, figure := range slices.Sorted(maps.Keys(r)) {
		parts = append(parts, figure+" "+Number(r[figure]))
	}
	return strings.Join(parts, ", ")
}

// Case is one of the candidates that are compared.
type Case struct {
	Name string
	// Every is for slow candidates: only each nth round runs them. Zero is 1.
	Every int
	Run   func(ctx context.Context) (Result, error)
}

// Series are the results of all rounds: case, figure, one value per round.
type Series map[string]map[string][]float64

// Rounds runs every case once per round. Each round begins with another case,
// so that a disturbance, and the warmth that one leaves to the next, do not
// always meet the same one. say gets a line per run.
func Rounds(ctx context.Context, rounds int, cases []Case, say func(format string, args ...any)) (Series, error) {
	series := Series{}
	for _, c := range cases {
		series[c.Name] = map[string][]float64{}
	}
	for round := range rounds {
		for i := range cases {
			c := cases[(i+round)%len(cases)]
			if c.Every > 1 && round%c.Every != 0 {
				continue
			}
			began := time.Now()
			result, err := c.Run(ctx)
			if err != nil {
				return series, fmt.Errorf("%s, round %d: %w", c.Name, round+1, err)
			}
			for figure, value := range result {
				series[c.Name][figure] = append(series[c.Name][figure], value)
			}
			say("round %d/%d  %-44s %s  (%.1fs)", round+1, rounds, c.Name, result, time.Since(began).Seconds())
		}
	}
	return series, nil
}

// Median returns the median of a figure over the rounds.
func (s Series) Median(name, figure string) float64 { return Median(s[name][figure]) }

// Best returns the name among names with the highest median of figure, or with
// the lowest when less is better.
func (s Series) Best(figure string, lessIsBetter bool, names ...string) string {
	best := ""
	for _, name := range names {
		m := s.Median(name, figure)
		if m != m { // no round ran it
			continue
		}
		if best == "" || lessIsBetter == (m < s.Median(best, figure)) {
			best = name
		}
	}
	return best
}
