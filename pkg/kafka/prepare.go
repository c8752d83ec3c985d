package kafka

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

// prepare calls Prepare for the items that need it and have no result of an
// earlier run, concurrently: their keys are distinct, because a batch ends
// before a key that such a subscription has in it already. An error of Prepare
// is a fault of its own item.
func (w *worker) prepare(ctx context.Context, items []*item) *fault {
	todo, f := w.unprepared(ctx, items)
	if f != nil {
		return f
	}
	var wg sync.WaitGroup
	for _, it := range todo {
		if !w.c.prepares.take(ctx) {
			break
		}
		wg.Go(func() {
			defer w.c.prepares.give()
			w.c.callPrepare(ctx, it)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return &fault{index: -1, class: classStopped, err: ctx.Err()}
	}
	for i, it := range items {
		if it.prepareErr != nil {
			return &fault{index: i, class: classify(ctx, it.prepareErr, phasePrepare, false), err: it.prepareErr}
		}
	}
	return nil
}

// unprepared returns the items whose Prepare is to be called. One read-only look
// spares the call for those that were handled before and for those that have to
// wait behind their key.
func (w *worker) unprepared(ctx context.Context, items []*item) ([]*item, *fault) {
	var todo []*item
	for _, it := range items {
		if it.sub.Prepare != nil && !it.isPrepared {
			todo = append(todo, it)
		}
	}
	if len(todo) == 0 {
		return nil, nil
	}
	claims, keys, _ := claimsOf(todo)
	seen, err := w.c.looks.Do(ctx, look{claims, keys})
	if err != nil {
		return nil, &fault{index: -1, class: classify(ctx, err, phaseBegin, false), err: err}
	}
	needed := todo[:0]
	for _, it := range todo {
		if _, known := seen.taken[it.claim]; known {
			continue
		}
		if p, ok := seen.parked[it.key]; ok && it.keyed && p.Head != it.event.ID {
			continue
		}
		needed = append(needed, it)
	}
	return needed, nil
}

// look is what a batch asks the inbox about, seen what was there for all that
// asked at once.
type (
	look struct {
		claims []inbox.Claim
		keys   []inbox.Key
	}
	seen struct {
		taken  map[inbox.Claim]struct{}
		parked map[inbox.Key]inbox.Parked
	}
)

func (c *Consumer) look(ctx context.Context, all []look) ([]seen, error) {
	var claims []inbox.Claim
	var keys []inbox.Key
	for _, l := range all {
		claims, keys = append(claims, l.claims...), append(keys, l.keys...)
	}
	if !c.slots.take(ctx) {
		return nil, ctx.Err()
	}
	defer c.slots.give()
	taken, parked, err := inbox.Look(ctx, c.db.Pool, claims, keys)
	return slices.Repeat([]seen{{taken, parked}}, len(all)), err
}

// callPrepare keeps the outcome in the item, for as often as its batch is run.
// A call that our own shutdown cut short has no outcome.
func (c *Consumer) callPrepare(ctx context.Context, it *item) {
	limited, cancel := context.WithTimeout(ctx, c.cc.PrepareTimeout)
	defer cancel()
	spanned, end := c.span(limited, it, "prepare")
	started := time.Now()
	prepared, err := func() (prepared any, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		return it.sub.Prepare(spanned, it.event)
	}()
	c.m.handler.WithLabelValues(it.sub.Topic, "prepare").Observe(time.Since(started).Seconds())
	end(err)
	if ctx.Err() != nil && err != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("prepare %s: %w", it.event.Type, err)
	}
	it.prepared, it.prepareErr, it.isPrepared = prepared, err, true
}
