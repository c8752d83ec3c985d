package outbox

import "time"

// pacer says when a relay may read next. Under load the events of some time go
// together, here and in all that follows.
//
// Like a sender under Nagle's algorithm (RFC 896) it holds back what comes while
// something published is not answered yet, for pace at most. The answer to single
// events is what a batch emits: it has waited for others already, goes out with
// all that was held back, and so the answers set the pace. Without that, a read
// that came too early would begin a second round beside the first, and both would
// hold each other up from then on: each read costs as much as one of all, and each
// answer waits for the read of the other round to be long enough ago.
type pacer struct {
	pace, batchPace time.Duration

	read    time.Time // the last that found something
	asked   bool      // single events came since
	told    bool      // a batch came since
	awaited int       // answers: of the last read, and of the one before if that had none either
}

// single says that a transaction outside of a Session emitted something.
func (p *pacer) single() { p.asked = true }

// batch says that a Session did.
func (p *pacer) batch() {
	p.told = true
	p.awaited = max(0, p.awaited-1)
}

// found says that a read began at now and found what there was.
func (p *pacer) found(now time.Time) {
	if p.told {
		p.awaited = 0 // one batch may answer several reads
	}
	if p.asked {
		p.awaited = min(p.awaited+1, 2)
	}
	p.read, p.asked, p.told = now, false, false
}

// next returns when the next read may be.
func (p *pacer) next() time.Time {
	if p.awaited == 0 {
		return p.read.Add(p.batchPace)
	}
	return p.read.Add(p.pace)
}
