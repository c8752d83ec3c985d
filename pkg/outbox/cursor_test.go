package outbox

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestCursorAdvances(t *testing.T) {
	t.Parallel()
	const many = 100
	for _, c := range []struct {
		name  string
		from  cursor
		seqs  []int64
		xmin  int64
		cut   bool
		limit int
		want  cursor
		n     int
	}{
		{"nothing new", cursor{5, nil}, nil, 9, false, many, cursor{5, []gap{}}, 0},
		{"no holes", cursor{5, nil}, []int64{6, 7}, 9, false, many, cursor{7, []gap{}}, 2},
		{"a hole at the start", cursor{0, nil}, []int64{3}, 9, false, many, cursor{3, []gap{{1, 2, 0}}}, 1},
		{"holes between", cursor{5, nil}, []int64{6, 9, 11}, 9, false, many, cursor{11, []gap{{7, 8, 0}, {10, 10, 0}}}, 3},
		{"a gap shows up in part", cursor{9, []gap{{3, 6, 50}}}, []int64{4}, 50 - 1, false, many, cursor{9, []gap{{3, 3, 50}, {5, 6, 50}}}, 1},
		{"a gap shows up in full", cursor{9, []gap{{3, 4, 50}}}, []int64{3, 4, 10}, 1, false, many, cursor{10, []gap{}}, 3},
		{"a gap whose transactions ended", cursor{9, []gap{{3, 4, 50}}}, nil, 50, false, many, cursor{9, []gap{}}, 0},
		{"one of them committed", cursor{9, []gap{{3, 6, 50}}}, []int64{5}, 50, false, many, cursor{9, []gap{}}, 1},
		{"one still runs", cursor{9, []gap{{3, 4, 50}}}, nil, 49, false, many, cursor{9, []gap{{3, 4, 50}}}, 0},
		{"an unstored gap never ends", cursor{9, []gap{{3, 4, 0}}}, nil, 1 << 40, false, many, cursor{9, []gap{{3, 4, 0}}}, 0},
		{"cut short in a gap", cursor{9, []gap{{3, 6, 50}, {8, 8, 50}}}, []int64{4}, 50, true, many, cursor{9, []gap{{5, 6, 50}, {8, 8, 50}}}, 1},
		{"cut short beyond the gaps", cursor{9, []gap{{3, 6, 50}}}, []int64{10}, 50, true, many, cursor{10, []gap{}}, 1},
		{"cut short before anything", cursor{9, []gap{{3, 6, 50}}}, nil, 50, true, many, cursor{9, []gap{{3, 6, 50}}}, 0},
		{"the limit stops at a new hole", cursor{5, []gap{{1, 1, 50}}}, []int64{6, 8, 9}, 1, false, 1, cursor{6, []gap{{1, 1, 50}}}, 1},
		{"the limit stops at a split", cursor{9, []gap{{1, 5, 50}, {7, 7, 50}}}, []int64{3, 10}, 1, false, 2, cursor{9, []gap{{1, 5, 50}, {7, 7, 50}}}, 0},
		{"at the limit a gap may still shrink", cursor{9, []gap{{1, 5, 50}, {7, 7, 50}}}, []int64{1, 2}, 1, false, 2, cursor{9, []gap{{3, 5, 50}, {7, 7, 50}}}, 2},
		{"an ended gap needs no room", cursor{9, []gap{{1, 5, 50}}}, []int64{3, 12}, 50, false, 1, cursor{12, []gap{{10, 11, 0}}}, 2},
	} {
		after, n := c.from.advance(c.seqs, c.xmin, c.cut, c.limit)
		require.Equal(t, c.n, n, c.name)
		require.Equal(t, c.want, after, c.name)
	}
}

func TestNewGapsAreBoundOnce(t *testing.T) {
	t.Parallel()
	c := cursor{20, []gap{{1, 1, 7}, {3, 4, unbounded}, {12, 13, unbounded}}}
	c.bind(10, 99)
	require.Equal(t, []gap{{1, 1, 7}, {3, 4, 99}, {12, 13, unbounded}}, c.gaps, "what lies beyond was not stored yet")
	require.Equal(t, c, fromTriples(20, c.triples()))
	require.EqualValues(t, 0, c.published())
	require.EqualValues(t, 20, cursor{20, nil}.published())
}

// Any mix of commits, rollbacks, cuts and limits: every committed seq comes out
// once, below-limit gaps stay sorted, disjoint and below the position.
func TestCursorLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const total = 200
		limit := 1 + rng.IntN(20)
		// Transaction i owns seq i+1 and has id 1000+i. It is visible from
		// step shows[i] on, or rolled back at that step.
		shows, rolledBack := make([]int, total), make([]bool, total)
		for i := range shows {
			shows[i] = i + rng.IntN(30)
			rolledBack[i] = rng.IntN(5) == 0
		}
		var c cursor
		out := map[int64]int{}
		for step := 0; step < 10*total; step++ {
			xmin, xid := int64(1000+total), int64(1000+min(step, total))
			for i := total - 1; i >= 0; i-- {
				if shows[i] > step {
					xmin = int64(1000 + i)
				}
			}
			xmin = min(xmin, xid)
			var visible []int64
			inGap := func(s int64) bool {
				return slices.ContainsFunc(c.gaps, func(g gap) bool { return g.lo <= s && s <= g.hi })
			}
			for i := range total {
				s := int64(i + 1)
				if i < step && shows[i] <= step && !rolledBack[i] && (s > c.pos || inGap(s)) {
					visible = append(visible, s)
				}
			}
			cut := false
			if b := 1 + rng.IntN(15); len(visible) > b {
				visible, cut = visible[:b], true
			}
			after, n := c.advance(visible, xmin, cut, limit)
			for _, s := range visible[:n] {
				out[s]++
			}
			after.bind(after.pos, xid)
			last, sound := int64(0), len(after.gaps) <= limit
			for _, g := range after.gaps {
				sound = sound && last < g.lo && g.lo <= g.hi
				last = g.hi
			}
			if !sound || last > after.pos {
				require.Fail(t, "broken gaps", "seed %d: %v, limit %d", seed, after, limit)
			}
			c = after
		}
		for i := range total {
			want := 1
			if rolledBack[i] {
				want = 0
			}
			require.Equal(t, want, out[int64(i+1)], "seed %d seq %d", seed, i+1)
		}
		require.Empty(t, c.gaps, "seed %d", seed)
	}
}

func TestNextPoll(t *testing.T) {
	t.Parallel()
	rings, silent := &DB{bell: &postgres.Doorbell{}}, &DB{}
	for name, c := range map[string]struct {
		db    *DB
		gaps  []gap
		last  time.Duration
		found bool
		want  time.Duration
	}{
		"nothing there":                  {rings, nil, 40, false, 80},
		"nothing there for long":         {rings, nil, 200, false, 250},
		"found, the next one will ring":  {rings, nil, 40, true, 250},
		"found, a gap may be a rollback": {rings, []gap{{1, 1, 9}}, 40, true, 5},
		"found, nobody rings":            {silent, nil, 40, true, 5},
	} {
		p := publisher{Relay: &Relay{db: c.db, cfg: RelayConfig{PollMin: 5, PollMax: 250}}}
		p.ahead.gaps = c.gaps
		require.Equal(t, c.want, p.nextPoll(c.last, c.found), name)
	}
}
