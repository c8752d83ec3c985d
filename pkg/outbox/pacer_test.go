package outbox

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pacing is a relay whose reads take no time, with single events all the time,
// and batches that answer each read after a while.
type pacing struct {
	pacer   pacer
	now     time.Time
	answers []time.Time
}

func newPacing(pace, batchPace time.Duration) *pacing {
	return &pacing{pacer: pacer{pace: pace, batchPace: batchPace}, now: time.Unix(1, 0)}
}

// run lets time pass and returns the times of the reads. Answers come as long
// after their read as took says, and not at all for 0.
func (p *pacing) run(d time.Duration, took func(now time.Time) time.Duration) (reads []time.Time) {
	for end := p.now.Add(d); p.now.Before(end); p.now = p.now.Add(time.Millisecond) {
		p.pacer.single()
		for len(p.answers) > 0 && !p.answers[0].After(p.now) {
			p.answers = p.answers[1:]
			p.pacer.batch()
		}
		if p.now.Before(p.pacer.next()) {
			continue
		}
		p.pacer.found(p.now)
		reads = append(reads, p.now)
		if d := took(p.now); d > 0 {
			p.answers = append(p.answers, p.now.Add(d))
			if n := len(p.answers); n > 1 && p.answers[n-1].Before(p.answers[n-2]) {
				p.answers[n-1] = p.answers[n-2] // they come in order
			}
		}
	}
	return reads
}

func after(d time.Duration) func(time.Time) time.Duration {
	return func(time.Time) time.Duration { return d }
}

func TestAnswersSetThePace(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer, between time.Duration
	}{
		"they come":            {34 * time.Millisecond, 34 * time.Millisecond},
		"they come too soon":   {5 * time.Millisecond, 20 * time.Millisecond},
		"they come too late":   {90 * time.Millisecond, 45 * time.Millisecond}, // two rounds
		"there are none":       {0, 60 * time.Millisecond},
		"they take for ever":   {time.Hour, 60 * time.Millisecond},
		"they come with pace":  {60 * time.Millisecond, 60 * time.Millisecond},
		"they take two rounds": {120 * time.Millisecond, 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPacing(60*time.Millisecond, 20*time.Millisecond)
			reads := p.run(10*time.Second, after(c.answer))
			require.InDelta(t, float64(10*time.Second/c.between), float64(len(reads)), 2)
		})
	}
}

// A time in which answers take long leaves no second round behind: afterwards
// there is one read per answer again, and no answer waits for its read.
func TestRoundsThatMeetBecomeOne(t *testing.T) {
	t.Parallel()
	for _, ms := range []int{61, 70, 95, 119, 150, 300} {
		slow := time.Duration(ms) * time.Millisecond
		p := newPacing(60*time.Millisecond, 20*time.Millisecond)
		p.run(time.Second, after(34*time.Millisecond))
		p.run(150*time.Millisecond, after(slow))
		p.run(500*time.Millisecond, after(34*time.Millisecond))
		reads := p.run(time.Second, after(34*time.Millisecond))
		require.InDelta(t, 1000/34, len(reads), 1, "after answers that took %s", slow)
	}
}

// One batch may answer several reads; none waits for another then.
func TestAnAnswerThatIsMissingIsForgotten(t *testing.T) {
	t.Parallel()
	p := newPacing(60*time.Millisecond, 20*time.Millisecond)
	n := 0
	p.run(time.Second, func(time.Time) time.Duration {
		if n++; n%9 == 0 {
			return 0
		}
		return 34 * time.Millisecond
	})
	reads := p.run(time.Second, after(34*time.Millisecond))
	require.InDelta(t, 1000/34, len(reads), 2)
}
