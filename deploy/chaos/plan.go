//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// fault is what a step does to its target.
type fault string

// The faults of parts, and of links after them.
const (
	kill    fault = "kill -9" // and started again at once
	down    fault = "kill -9 and keep down"
	restart fault = "restart" // in order
	pause   fault = "stop"    // SIGSTOP, then SIGCONT
	refuse  fault = "cut"     // connections end, new ones are refused
	stall   fault = "stall"   // nothing passes; afterwards it goes on, late
	lose    fault = "lose"    // requests pass, answers do not; then connections end
)

// step is one fault of a plan.
type step struct {
	at, lasts time.Duration
	do        fault
	on        string // a part, or a link
}

func (s step) String() string {
	text := fmt.Sprintf("%7.3fs  %s %s", s.at.Seconds(), s.do, s.on)
	if s.lasts > 0 {
		text += fmt.Sprintf(" for %.3fs", s.lasts.Seconds())
	}
	return text
}

// linkArrow stands in the names of links, between service and server.
const linkArrow = " -> "

// newPlan draws the faults of a run. The same seed, length and targets give the
// same plan. A target has one fault at a time; several targets may have theirs
// at once.
func newPlan(seed uint64, length time.Duration, targets []string) []step {
	const (
		calm = 500 * time.Millisecond // so that some orders are under way
		gap  = 800 * time.Millisecond // on average
	)
	rng := rand.New(rand.NewPCG(seed, 1))
	busy := map[string]time.Duration{}
	var plan []step
	for at := calm; at < length; at += time.Duration(rng.ExpFloat64() * float64(gap)) {
		var weights []int
		var idle []string
		for _, t := range targets {
			if busy[t] <= at {
				idle, weights = append(idle, t), append(weights, weight(t))
			}
		}
		if len(idle) == 0 {
			continue
		}
		s := step{at: at, on: idle[pick(rng, weights)]}
		s.do = faultOf(rng, s.on)
		s.lasts = min(lengthOf(rng, s.do), max(100*time.Millisecond, length-at))
		if s.do == kill || s.do == restart {
			s.lasts = 0
		}
		busy[s.on] = at + max(s.lasts, time.Second) // and some time to come back
		plan = append(plan, s)
	}
	return plan
}

// weight prefers what takes part in the saga.
func weight(target string) int {
	switch {
	case strings.Contains(target, "auth"), strings.HasPrefix(target, "gateway"):
		return 1
	case strings.Contains(target, linkArrow):
		return 3
	default:
		return 4
	}
}

func faultOf(rng *rand.Rand, target string) fault {
	switch {
	case strings.Contains(target, linkArrow):
		return []fault{refuse, stall, lose}[pick(rng, []int{2, 2, 3})]
	case target == "kafka", strings.HasPrefix(target, "postgres-"):
		return []fault{kill, restart, down, pause}[pick(rng, []int{3, 2, 2, 1})]
	default:
		return []fault{kill, restart, down, pause}[pick(rng, []int{3, 2, 2, 3})]
	}
}

// lengthOf draws how long a fault lasts. A third of those that leave processes
// alive outlast the relay's lease (5 s) and some the consumers' sessions (10 s).
func lengthOf(rng *rand.Rand, do fault) time.Duration {
	between := func(from, to time.Duration) time.Duration {
		return (from + time.Duration(rng.Int64N(int64(to-from)))).Truncate(time.Millisecond)
	}
	switch do {
	case pause, stall, lose:
		if pick(rng, []int{2, 1}) == 1 {
			return between(5*time.Second, 14*time.Second)
		}
		return between(100*time.Millisecond, 3*time.Second)
	default:
		return between(200*time.Millisecond, 5*time.Second)
	}
}

// pick draws an index by weight.
func pick(rng *rand.Rand, weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := rng.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	return len(weights) - 1
}
