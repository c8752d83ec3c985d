// Package coalesce lets calls share a round trip: those that are made while one
// runs go together into the next. A call that is alone goes at once, and calls
// that fail together are made again one by one, so that none fails for another.
package coalesce

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
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
	waiting []*call[Q, A]
	open    int                // of the calls that run, those that are not over
	abort   context.CancelFunc // ends the calls that run
}

type call[Q, A any] struct {
	question Q
	told     chan outcome[A] // buffered 1: who asked may have gone
	over     bool            // told, or gone
}

type outcome[A any] struct {
	answer   A
	err      error
	panicked any
}

// New returns Calls that do answers, at most most at once and within limit, with
// one answer per question in their order.
func New[Q, A any](most int, limit time.Duration, do func(ctx context.Context, questions []Q) ([]A, error)) *Calls[Q, A] {
	return &Calls[Q, A]{do: do, most: most, limit: limit}
}

// Do asks, and waits for the answer or the end of ctx. A question that waits
// then is never asked; one that is being asked goes on for as long as anybody
// waits for what goes along with it. A panic of do is one of Do.
func (c *Calls[Q, A]) Do(ctx context.Context, question Q) (A, error) {
	own := &call[Q, A]{question: question, told: make(chan outcome[A], 1)}
	c.mu.Lock()
	c.waiting = append(c.waiting, own)
	if !c.running {
		c.running = true
		go c.run()
	}
	c.mu.Unlock()
	select {
	case o := <-own.told:
		if o.panicked != nil {
			panic(o.panicked)
		}
		return o.answer, o.err
	case <-ctx.Done():
		c.leave(own)
		var none A
		return none, ctx.Err()
	}
}

// run answers until nobody waits.
func (c *Calls[Q, A]) run() {
	Gather(c.most, func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.waiting)
	})
	for {
		ctx, cancel := context.WithTimeout(context.Background(), c.limit)
		calls := c.take(cancel)
		if len(calls) > 0 {
			c.answer(ctx, calls)
		}
		cancel()
		if len(calls) == 0 {
			return
		}
	}
}

// Gather lets those come first who are about to, woken by the same event: it
// yields the processor until count has not grown twice in a row, or is most. Twice,
// because who yields may have come before them in the scheduler's queue.
func Gather(most int, count func() int) {
	for n, quiet := count(), 0; n < most && quiet < 2; quiet++ {
		runtime.Gosched()
		if now := count(); now > n {
			n, quiet = now, -1
		}
	}
}

// take returns the calls that run next, which abort ends.
func (c *Calls[Q, A]) take(abort context.CancelFunc) []*call[Q, A] {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), c.most)
	c.running, c.open, c.abort = n > 0, n, abort
	calls := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	return calls
}

func (c *Calls[Q, A]) answer(ctx context.Context, calls []*call[Q, A]) {
	questions := make([]Q, len(calls))
	for i := range calls {
		questions[i] = calls[i].question
	}
	answers, failed := c.ask(ctx, questions)
	for i, call := range calls {
		switch {
		case failed == nil:
			c.tell(call, outcome[A]{answer: answers[i]})
		case len(calls) == 1 || ctx.Err() != nil:
			c.tell(call, *failed)
		default:
			c.answer(ctx, calls[i:i+1])
		}
	}
}

func (c *Calls[Q, A]) ask(ctx context.Context, questions []Q) (answers []A, failed *outcome[A]) {
	defer func() {
		if v := recover(); v != nil {
			failed = &outcome[A]{panicked: fmt.Sprintf("%v\n%s", v, debug.Stack())}
		}
	}()
	answers, err := c.do(ctx, questions)
	if err == nil && len(answers) != len(questions) {
		err = fmt.Errorf("%d answers to %d questions", len(answers), len(questions))
	}
	if err != nil {
		return nil, &outcome[A]{err: err}
	}
	return answers, nil
}

func (c *Calls[Q, A]) tell(one *call[Q, A], o outcome[A]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.told <- o
	c.end(one)
}

// leave takes back a call that waits, and ends those that run when it was the
// last that waited for them.
func (c *Calls[Q, A]) leave(one *call[Q, A]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.waiting, one); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
		return
	}
	c.end(one)
}

// end is called with mu held, for a call that runs.
func (c *Calls[Q, A]) end(one *call[Q, A]) {
	if one.over {
		return
	}
	one.over = true
	if c.open--; c.open == 0 {
		c.abort()
	}
}
