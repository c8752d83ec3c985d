package outbox

import "math"

// cursor says what is published: every seq up to pos, except the gaps.
//
// A seq that is missing below a visible one belongs to a transaction that is
// still running, or to none any more: it was rolled back. Which of the two can
// only be told later, so the relay goes on and keeps the hole as a gap.
type cursor struct {
	pos  int64
	gaps []gap // ascending, disjoint, all below pos
}

// gap is a range of missing seqs. Once stored it has a bound: a transaction id
// that is greater than that of any transaction which can still own one of them.
// When all transactions below the bound have ended and a seq is still not
// there, it never will be.
type gap struct{ lo, hi, bound int64 }

// unbounded marks a gap that is not stored yet. No seq is 0 and no bound is, so
// the database can replace it in the flat array of triples.
const unbounded = 0

// advance returns the cursor after the first n of seqs, the visible rows in
// gaps and beyond pos in ascending order, have been published, and n itself. xmin is that of
// the snapshot which saw them: every transaction below it has ended. cut says
// that there may be more rows after the last of seqs.
//
// n is less than len(seqs) when more would need more than limit gaps. The caller
// then waits: gaps close as transactions end.
func (c cursor) advance(seqs []int64, xmin int64, cut bool, limit int) (after cursor, n int) {
	known := int64(math.MaxInt64) // up to here, what is not in seqs is not visible
	if cut {
		known = 0
		if len(seqs) > 0 {
			known = seqs[len(seqs)-1]
		}
	}
	gaps := make([]gap, 0, len(c.gaps)+4)
	for i, g := range c.gaps {
		ended := g.bound != unbounded && g.bound <= xmin
		lo := g.lo
		for ; n < len(seqs) && seqs[n] <= g.hi; n++ {
			if !ended && seqs[n] > lo {
				// What is left of g so far, what follows in it, and the other gaps.
				if len(gaps)+1+len(c.gaps)-i > limit {
					gaps = append(append(gaps, gap{lo, g.hi, g.bound}), c.gaps[i+1:]...)
					return cursor{c.pos, gaps}, n
				}
				gaps = append(gaps, gap{lo, seqs[n] - 1, g.bound})
			}
			lo = seqs[n] + 1
		}
		if lo > g.hi || ended && g.hi <= known {
			continue
		}
		gaps = append(gaps, gap{lo, g.hi, g.bound})
	}
	pos := c.pos
	for ; n < len(seqs); n++ {
		if seqs[n] > pos+1 {
			if len(gaps) >= limit {
				break
			}
			gaps = append(gaps, gap{pos + 1, seqs[n] - 1, unbounded})
		}
		pos = seqs[n]
	}
	return cursor{pos, gaps}, n
}

// bind gives the holes below pos the bound with which they were stored.
func (c cursor) bind(pos, bound int64) {
	for i := range c.gaps {
		if c.gaps[i].bound == unbounded && c.gaps[i].hi < pos {
			c.gaps[i].bound = bound
		}
	}
}

// ranges returns the gaps' ends for the read.
func (c cursor) ranges() (lo, hi []int64) {
	both := make([]int64, 2*len(c.gaps))
	lo, hi = both[:len(c.gaps)], both[len(c.gaps):]
	for i, g := range c.gaps {
		lo[i], hi[i] = g.lo, g.hi
	}
	return lo, hi
}

// triples returns the gaps as they are stored.
func (c cursor) triples() []int64 {
	flat := make([]int64, 0, 3*len(c.gaps))
	for _, g := range c.gaps {
		flat = append(flat, g.lo, g.hi, g.bound)
	}
	return flat
}

func fromTriples(pos int64, flat []int64) cursor {
	c := cursor{pos: pos}
	for ; len(flat) >= 3; flat = flat[3:] {
		c.gaps = append(c.gaps, gap{flat[0], flat[1], flat[2]})
	}
	return c
}

// published is the highest seq below which everything is published for good.
func (c cursor) published() int64 {
	if len(c.gaps) > 0 {
		return c.gaps[0].lo - 1
	}
	return c.pos
}
