package outbox

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The model is the cursor algorithm with everything that can interleave: three
// transactions that take an id, take a seq, and commit or roll back; a leader
// that reads, produces and stores, and can die or be overtaken between any two
// of these; a successor that starts from what is stored. Every reachable state
// is visited. Production code under test: cursor.advance and cursor.bind.
//
// Ids and seqs come from counters, as in the database. A snapshot sees what has
// committed; its xmin is the lowest running id, its xmax one past the highest
// that has ended.
type model struct {
	nextXid, nextSeq int8
	txs              [3]modelTx
	stored           modelCursor // in the database
	relays           [2]modelRelay
	epoch            int8    // of the stored cursor
	published        [3]int8 // seqs by their first publication
	terms, accidents int8
}

type modelTx struct {
	xid, seq int8 // 0: none yet
	end      byte // 0 running, c committed, r rolled back
}

// modelRelay is a relay between two steps.
type modelRelay struct {
	epoch   int8 // 0: not leading
	ahead   modelCursor
	next    modelCursor // to be stored, when storing
	sent    [3]int8     // to be produced before
	xmax    int8        // of the snapshot that made next
	storing bool
}

// modelCursor is a cursor that can be compared.
type modelCursor struct {
	pos  int8
	gaps [3]struct{ lo, hi, bound int8 }
}

// modelRules are the choices that the proof is about.
type modelRules struct {
	forget bool // holes
	xmax   bool // is the bound
	later  bool // store the bound, with the next cursor
	lock   bool // transactions A and B write the same key
}

func TestEveryInterleavingPublishesEverythingInOrder(t *testing.T) {
	t.Parallel()
	for _, lock := range []bool{false, true} {
		states, broken := explore(modelRules{lock: lock})
		require.Empty(t, broken)
		t.Logf("%d states", states)
	}
	for name, rules := range map[string]modelRules{
		"naive":         {forget: true},
		"bound by xmax": {xmax: true},
		"bound later":   {later: true},
	} {
		_, broken := explore(rules)
		require.NotEmpty(t, broken, name)
		t.Logf("%s: %s", name, broken)
	}
}

// explore visits every state from the start and returns the shortest way to a
// loss or a wrong order, if there is one.
func explore(rules modelRules) (states int, broken string) {
	type node struct {
		m    model
		from int
	}
	nodes := []node{{m: model{nextXid: 10, nextSeq: 1}, from: -1}}
	seen := map[model]struct{}{nodes[0].m: {}}
	var next []modelStep
	for i := 0; i < len(nodes); i++ {
		next = nodes[i].m.steps(rules, false, next[:0])
		for _, s := range next {
			if _, known := seen[s.m]; !known {
				seen[s.m] = struct{}{}
				nodes = append(nodes, node{s.m, i})
			}
		}
		wrong := nodes[i].m.disorder(rules)
		if len(next) == 0 {
			wrong += nodes[i].m.lost() // all ended, a leader finds nothing new
		}
		if wrong != "" {
			for n := i; nodes[n].from >= 0; n = nodes[n].from {
				for _, s := range nodes[nodes[n].from].m.steps(rules, true, nil) {
					if s.m == nodes[n].m {
						wrong = s.did + ", " + wrong
						break
					}
				}
			}
			return len(nodes), wrong
		}
	}
	return len(nodes), ""
}

type modelStep struct {
	m   model
	did string
}

// steps appends all that can happen next, in words if asked.
func (m model) steps(rules modelRules, words bool, out []modelStep) []modelStep {
	add := func(n model, format string, args ...any) {
		s := modelStep{m: n}
		if words {
			s.did = fmt.Sprintf(format, args...)
		}
		out = append(out, s)
	}
	for i, tx := range m.txs {
		name := "ABC"[i : i+1]
		n := m
		switch {
		case tx.end != 0:
		case tx.xid == 0:
			// They are alike, so they may as well begin in turn; with the lock,
			// B gets the row when A has ended.
			if i > 0 && m.txs[i-1].xid == 0 || rules.lock && i == 1 && m.txs[0].end == 0 {
				break
			}
			n.txs[i].xid = m.nextXid
			n.nextXid++
			add(n, "%s takes id %d", name, m.nextXid)
		case tx.seq == 0:
			n.txs[i].seq = m.nextSeq
			n.nextSeq++
			add(n, "%s takes seq %d", name, m.nextSeq)
		default:
			n.txs[i].end = 'c'
			add(n, "%s commits", name)
			n.txs[i].end = 'r'
			add(n, "%s rolls back", name)
		}
	}
	for i, r := range m.relays {
		name, n := [2]string{"relay 1", "relay 2"}[i], m
		me := &n.relays[i]
		switch {
		case r.epoch == 0:
			alive := m.relays[1-i].epoch != 0
			if m.terms == 3 || m.terms == 0 && i == 1 || alive && m.accidents == 1 {
				break
			}
			if n.terms++; alive {
				n.accidents++ // its lease ran out
			}
			n.epoch++
			for g := range n.stored.gaps {
				if s := &n.stored.gaps[g]; s.lo != 0 && s.bound == unbounded {
					// Later: who stores bounds afterwards takes a gap without
					// one for an old one.
					if s.bound = m.nextXid; rules.later {
						s.bound = 1
					}
				}
			}
			n.nextXid++
			*me = modelRelay{epoch: n.epoch, ahead: n.stored}
			add(n, "%s leads", name)
			continue
		case r.sent != [3]int8{}:
			for _, s := range r.sent {
				if s != 0 && !slices.Contains(m.published[:], s) {
					n.published[slices.Index(n.published[:], 0)] = s
				}
			}
			me.sent = [3]int8{}
			add(n, "%s produces %v", name, r.sent)
		case r.storing && r.epoch != m.epoch:
			*me = modelRelay{} // the fence: zero rows, step down
			add(n, "%s is refused", name)
		case r.storing:
			bound := m.nextXid
			if rules.xmax {
				bound = r.xmax
			}
			c := r.next.cursor()
			c.bind(c.pos, int64(bound))
			me.ahead = toModel(c)
			if n.stored = me.ahead; rules.later {
				n.stored = r.next
			}
			n.nextXid++
			me.next, me.storing, me.xmax = modelCursor{}, false, 0
			add(n, "%s stores %v", name, n.stored)
		default:
			c := r.ahead.cursor()
			seqs, xmin, xmax := m.snapshot(c)
			after, taken := c.advance(seqs, xmin, false, 3)
			if rules.forget {
				after.gaps = nil
			}
			if taken == 0 && slices.Equal(after.gaps, c.gaps) {
				break // nothing new
			}
			me.next, me.storing, me.xmax = toModel(after), true, xmax
			for j, s := range seqs[:taken] {
				me.sent[j] = int8(s)
			}
			add(n, "%s reads %v", name, seqs)
		}
		if r.epoch != 0 && m.accidents == 0 {
			n := m
			n.accidents++
			n.relays[i] = modelRelay{}
			add(n, "%s dies", name)
		}
	}
	return out
}

// snapshot is what one statement sees of the rows that c lacks.
func (m model) snapshot(c cursor) (seqs []int64, xmin int64, xmax int8) {
	xmin, xmax = int64(m.nextXid), 10
	for _, tx := range m.txs {
		if tx.end != 0 {
			xmax = max(xmax, tx.xid+1)
		} else if tx.xid != 0 {
			xmin = min(xmin, int64(tx.xid))
		}
		s := int64(tx.seq)
		if tx.end == 'c' && (s > c.pos || slices.ContainsFunc(c.gaps, func(g gap) bool { return g.lo <= s && s <= g.hi })) {
			seqs = append(seqs, s)
		}
	}
	slices.Sort(seqs)
	return seqs, xmin, xmax
}

func (m model) lost() string {
	for i, tx := range m.txs {
		if tx.end == 'c' && !slices.Contains(m.published[:], tx.seq) {
			return fmt.Sprintf("%c is lost", 'A'+i)
		}
	}
	return ""
}

func (m model) disorder(rules modelRules) string {
	a, b := slices.Index(m.published[:], m.txs[0].seq), slices.Index(m.published[:], m.txs[1].seq)
	if rules.lock && m.txs[0].end == 'c' && m.txs[1].seq != 0 && b >= 0 && (a < 0 || b < a) {
		return "B is published before A"
	}
	return ""
}

func (c modelCursor) cursor() cursor {
	out := cursor{pos: int64(c.pos)}
	for _, g := range c.gaps {
		if g.lo != 0 {
			out.gaps = append(out.gaps, gap{int64(g.lo), int64(g.hi), int64(g.bound)})
		}
	}
	return out
}

func toModel(c cursor) modelCursor {
	out := modelCursor{pos: int8(c.pos)}
	for i, g := range c.gaps {
		out.gaps[i] = struct{ lo, hi, bound int8 }{int8(g.lo), int8(g.hi), int8(g.bound)}
	}
	return out
}
