package payment_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
)

// The explorer visits every state that one order's payment can get into: each
// handler is a program whose steps (a statement that commits, a call of the
// provider, the transaction at its end) may be interleaved with those of every
// other in any way, may be killed between any two, and may be run by two
// processes at once. The rules are the real ones, the provider's too; what the
// database does in one statement is one step here.

// rules says which mechanisms are in place: all of them, except in tests that
// show what each is for.
type rules struct {
	tombstone      bool // order.cancelled before order.created leaves a row
	conditionalRef bool // a reference is stored only while the payment is chargeable
	firstRefWins   bool // a stored reference is never replaced
	cancelFlag     bool // a pending payment remembers that its order was cancelled
	chargedByState bool // the provider charges an intent once, and not after a void
	sweeper        bool // requests that got lost are made again
	inbox          bool // an event's writes happen once
}

func allRules() rules { return rules{true, true, true, true, true, true, true} }

// setting is what an exploration is about.
type setting struct {
	rules
	method    string
	forgetful bool // the provider makes a second intent for the same key
	letters   bool // events may be dead-lettered, and order.created redriven
}

const maxIntents, maxRequests = 2, 2

// world is one state. It is comparable, so that a state is visited once.
type world struct {
	exists  bool
	status  payment.Status
	cancel  bool // cancel_requested
	ref     int8 // 1 + place in intents, 0 for none
	intents [maxIntents]simulator.Intent
	made    int8

	createdDone, createdDead  bool
	cancelSent, cancelHandled bool
	requests                  int8 // payment.refund_requested, not handled yet

	charges, refunds            int8 // in the provider's books
	completed, failed, refunded int8 // events told

	chargers, voiders [2]worker
}

// worker is a process in the middle of a handler.
type worker struct {
	at  int8 // the next step, 0 for idle
	ref int8
	out payment.Result
}

// The steps of a worker.
const (
	toCreate int8 = iota + 1
	toStore
	toConfirm
	toApply
	toVoid
)

type step struct {
	label string
	to    world
}

func (w *world) payment() payment.Payment {
	return payment.Payment{Status: w.status, CancelRequested: w.cancel}
}

// apply runs a real rule on the row.
func (w *world) apply(rule func(*payment.Payment) []payment.Fact) {
	p := w.payment()
	for _, f := range rule(&p) {
		switch f {
		case payment.FactCompleted:
			w.completed++
		case payment.FactFailed:
			w.failed++
		case payment.FactRefunded:
			w.refunded++
		case payment.FactRefundRequested:
			w.requests = min(w.requests+1, maxRequests)
		}
	}
	w.status, w.cancel = p.Status, p.CancelRequested
}

// next lists all that can happen next.
func (s setting) next(w world) []step {
	var list []step
	add := func(label string, change func(*world)) {
		to := w
		change(&to)
		if to != w {
			list = append(list, step{label, to})
		}
	}
	for i := range w.chargers {
		s.charge(w, i, add)
	}
	for i := range w.voiders {
		s.void(w, i, add)
	}
	if !w.cancelSent {
		add("the order is cancelled", func(w *world) { w.cancelSent = true })
	}
	if w.cancelSent && (!w.cancelHandled || !s.inbox) {
		add("order.cancelled: apply", s.applyCancel)
	}
	if p := w.payment(); s.sweeper && w.exists && p.Releasing() && w.requests == 0 {
		add("sweep", func(w *world) { w.requests++ })
	}
	if s.letters {
		if !w.createdDone {
			add("order.created is a dead letter", func(w *world) { w.createdDone, w.createdDead = true, true })
		}
		if w.createdDead {
			add("order.created is redriven", func(w *world) { w.createdDone, w.createdDead = false, false })
		}
		if w.requests > 0 {
			add("payment.refund_requested is a dead letter", func(w *world) { w.requests-- })
		}
	}
	return list
}

func (s setting) charge(w world, i int, add func(string, func(*world))) {
	name := fmt.Sprintf("order.created[%d]: ", i)
	me := w.chargers[i]
	if me.at != 0 {
		add(name+"killed", func(w *world) { w.chargers[i] = worker{} })
	}
	switch me.at {
	case 0:
		if w.createdDone && s.inbox {
			return
		}
		add(name+"row", func(w *world) {
			if !w.exists {
				w.exists, w.status = true, payment.Pending
			}
			p := w.payment()
			switch {
			case !p.Chargeable():
				w.chargers[i] = worker{at: toApply}
			case w.ref == 0:
				w.chargers[i] = worker{at: toCreate}
			default:
				w.chargers[i] = worker{at: toConfirm, ref: w.ref}
			}
		})
	case toCreate:
		add(name+"create", func(w *world) {
			if w.made == 0 || s.forgetful && w.made < maxIntents {
				w.intents[w.made] = simulator.Intent{Method: s.method, State: simulator.Created}
				w.made++
			}
			w.chargers[i] = worker{at: toStore, ref: w.made}
		})
	case toStore:
		add(name+"store reference", func(w *world) {
			p := w.payment()
			if s.conditionalRef && !p.Chargeable() {
				w.chargers[i] = worker{at: toApply}
				return
			}
			if w.ref == 0 || !s.firstRefWins {
				w.ref = me.ref
			}
			w.chargers[i] = worker{at: toConfirm, ref: w.ref}
		})
	case toConfirm:
		add(name+"confirm", func(w *world) {
			in := &w.intents[me.ref-1]
			if !s.chargedByState {
				in.State = simulator.Created
			}
			before := in.State
			out, err := in.Confirm()
			in.Confirms = min(in.Confirms, 3)
			if in.State == simulator.IsCharged && before != in.State {
				w.charges++
			}
			if err != nil {
				w.chargers[i] = worker{} // it is tried again
				return
			}
			w.chargers[i] = worker{at: toApply, out: out.Result}
		})
	case toApply:
		add(name+"apply", func(w *world) {
			w.chargers[i] = worker{}
			if w.createdDone && s.inbox {
				return
			}
			w.createdDone, w.createdDead = true, false
			w.apply(func(p *payment.Payment) []payment.Fact { return p.Settle(payment.Outcome{Result: me.out, Code: "c"}) })
		})
	}
}

func (s setting) void(w world, i int, add func(string, func(*world))) {
	name := fmt.Sprintf("payment.refund_requested[%d]: ", i)
	me := w.voiders[i]
	if me.at != 0 {
		add(name+"killed", func(w *world) { w.voiders[i] = worker{} })
	}
	switch me.at {
	case 0:
		if w.requests == 0 {
			return
		}
		add(name+"row", func(w *world) {
			p := w.payment()
			switch {
			case !p.Releasing():
				w.voiders[i] = worker{at: toApply}
			case w.ref == 0:
				w.voiders[i] = worker{at: toApply, out: payment.VoidedIntent}
			default:
				w.voiders[i] = worker{at: toVoid, ref: w.ref}
			}
		})
	case toVoid:
		add(name+"void", func(w *world) {
			in := &w.intents[me.ref-1]
			before := in.State
			out := in.Void()
			if in.State == simulator.IsRefunded && before != in.State {
				w.refunds++
			}
			w.voiders[i] = worker{at: toApply, out: out.Result}
		})
	case toApply:
		add(name+"apply", func(w *world) {
			w.voiders[i] = worker{}
			if w.requests == 0 && s.inbox {
				return
			}
			w.requests = max(w.requests-1, 0)
			w.apply(func(p *payment.Payment) []payment.Fact { return p.Release(payment.Outcome{Result: me.out}) })
		})
	}
}

func (s setting) applyCancel(w *world) {
	w.cancelHandled = true
	p := w.payment()
	switch {
	case !w.exists && s.tombstone:
		w.exists, w.status = true, payment.Voided
	case !w.exists:
	case p.Chargeable() && !s.cancelFlag:
		w.requests = min(w.requests+1, maxRequests)
	default:
		w.apply((*payment.Payment).Cancel)
	}
}

// quiet says that nothing is left to be done.
func (w world) quiet() bool {
	p := w.payment()
	return w.chargers == [2]worker{} && w.voiders == [2]worker{} && w.requests == 0 && w.createdDone &&
		(!w.cancelSent || w.cancelHandled) && (!w.exists || !p.Releasing()) &&
		(!w.createdDead || w.cancelSent) // the order's deadline cancels it
}

// wrong says which promise a state breaks, "" for none.
func (s setting) wrong(w world) string {
	switch {
	case w.charges > 1:
		return "charged twice"
	case w.refunds > w.charges:
		return "more went back than was charged"
	case w.completed > 1 || w.failed > 1 || w.refunded > 1:
		return "told twice"
	case w.refunded > w.completed:
		return "a refund was told of a charge that was not"
	case w.completed > 0 && w.failed > 0:
		return "completed and failed"
	case !w.quiet():
		return ""
	case w.cancelSent && w.charges != w.refunds:
		return "money of a cancelled order is kept"
	case w.completed != w.charges || w.refunded != w.refunds:
		return "what was told is not what was charged"
	case w.cancelSent && w.status != payment.Voided && w.status != payment.Refunded && w.status != payment.Failed:
		return "a cancelled order's payment is " + string(w.status)
	case !w.cancelSent && w.status == payment.Completed && w.charges-w.refunds != 1:
		return "completed without the money"
	case !w.cancelSent && w.status != payment.Completed && w.status != payment.Failed:
		return "the payment of an order that goes on is " + string(w.status)
	}
	return ""
}

// explore visits every state. It returns their number, the first broken promise
// with the steps that lead to it, and how many states are quiet.
func (s setting) explore() (states, quiet int, broken string) {
	type from struct {
		state int32
		label string
	}
	ids := map[world]int32{{}: 0}
	worlds := []world{{}}
	parents := []from{{state: -1}}
	back := [][]int32{nil} // edges, reversed
	path := func(i int32) string {
		var labels []string
		for ; parents[i].state >= 0; i = parents[i].state {
			labels = append(labels, parents[i].label)
		}
		slices.Reverse(labels)
		return strings.Join(labels, "\n  ")
	}
	for i := int32(0); int(i) < len(worlds); i++ {
		if problem := s.wrong(worlds[i]); problem != "" {
			return len(worlds), 0, problem + ":\n  " + path(i)
		}
		for _, n := range s.next(worlds[i]) {
			id, seen := ids[n.to]
			if !seen {
				id = int32(len(worlds))
				ids[n.to] = id
				worlds = append(worlds, n.to)
				parents = append(parents, from{i, n.label})
				back = append(back, nil)
			}
			back[id] = append(back[id], i)
		}
	}
	// From every state some way must lead to an end.
	ends := make([]bool, len(worlds))
	var todo []int32
	for i, w := range worlds {
		if w.quiet() {
			ends[i], quiet = true, quiet+1
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, p := range back[i] {
			if !ends[p] {
				ends[p] = true
				todo = append(todo, p)
			}
		}
	}
	if i := slices.Index(ends, false); i >= 0 {
		return len(worlds), quiet, "no way out:\n  " + path(int32(i))
	}
	return len(worlds), quiet, ""
}
