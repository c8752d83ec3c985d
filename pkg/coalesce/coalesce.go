// Package coalesce lets calls share a round trip: those that are made while one
// runs go together into the next. A call that is alone goes at once, and calls
// that fail together are made again one by one, so that none fails for another.
package coalesce

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Calls are calls of one kind, each with a question and an answer. It is safe
// for concurrent use.
type Calls[Q, A any] struct {
	do    func(ctx context.Context, questions []Q) ([]A, error)
	most  int
	limit time.Duration

	mu      sync.Mutex
	running bool
	waiting []call[Q, A]
}

type call[Q, A any] struct {
	question Q
	told     chan outcome[A] // buffered 1: who asked may have gone
}

type outcome[A any] struct {
	answer A
	err    error
}

// New returns Calls that do answers, at most most at once and within limit, with
// one answer per question in their order.
func New[Q, A any](most int, limit time.Duration, do func(ctx context.Context, questions []Q) ([]A, error)) *Calls[Q, A] {
	return &Calls[Q, A]{do: do, most: most, limit: limit}
}

// Do asks, and waits for the answer or the end of ctx. The work goes on without
// a caller that leaves: others may wait for it.
func (c *Calls[Q, A]) Do(ctx context.Context, question Q) (A, error) {
	own := call[Q, A]{question, make(chan outcome[A], 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, own)
	if !c.running {
		c.running = true
		go c.run()
	}
	c.mu.Unlock()
	select {
	case o := <-own.told:
		return o.answer, o.err
	case <-ctx.Done():
		var none A
		return none, ctx.Err()
	}
}

// run answers until nobody waits.
func (c *Calls[Q, A]) run() {
	runtime.Gosched() // who is about to ask, woken by the same event, asks first
	for calls := c.take(); len(calls) > 0; calls = c.take() {
		c.answer(calls)
	}
}

func (c *Calls[Q, A]) answer(calls []call[Q, A]) {
	ctx, cancel := context.WithTimeout(context.Background(), c.limit)
	defer cancel()
	err := c.ask(ctx, calls)
	if err == nil {
		return
	}
	for i := range calls {
		if len(calls) > 1 {
			if err = c.ask(ctx, calls[i:i+1]); err == nil {
				continue
			}
		}
		calls[i].told <- outcome[A]{err: err}
	}
}

// ask tells the callers their answers, unless there is an error.
func (c *Calls[Q, A]) ask(ctx context.Context, calls []call[Q, A]) error {
	questions := make([]Q, len(calls))
	for i := range calls {
		questions[i] = calls[i].question
	}
	answers, err := c.do(ctx, questions)
	if err == nil && len(answers) != len(calls) {
		err = fmt.Errorf("%d answers to %d questions", len(answers), len(calls))
	}
	if err != nil {
		return err
	}
	for i := range calls {
		calls[i].told <- outcome[A]{answer: answers[i]}
	}
	return nil
}

func (c *Calls[Q, A]) take() []call[Q, A] {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), c.most)
	c.running = n > 0
	calls := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	return calls
}
