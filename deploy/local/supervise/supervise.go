//go:build unix

// Package supervise runs the parts of a system as child processes: in
// dependency order, restarted with backoff when they die, stopped in reverse.
// It behaves as a container engine with a restart policy does.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Part is one process of the system.
type Part struct {
	Name  string
	After []string // parts that must be ready before this one starts

	// Start starts the process, whose output goes to out. It is called again
	// after each death and may itself wait for what it starts.
	Start func(ctx context.Context, out io.Writer) (*proc.Process, error)
	// Ready returns nil when the part can be used. It is asked again until it
	// does. Nil as a function: ready when Start returns.
	Ready func(ctx context.Context) error
	// Signal asks the process to end, Grace is how long it may take.
	Signal syscall.Signal
	Grace  time.Duration
}

// Options of a Supervisor. The zero value restarts and is silent.
type Options struct {
	// NoRestart ends the run when a part dies.
	NoRestart bool
	// Output returns the writer for a part's lines. Nil discards them.
	Output func(part string) io.Writer
	// Event is told what happens to the parts, in words for a reader.
	Event func(part, what string)
	// ReadyTimeout bounds the wait for one part to be ready; 60 s by default.
	ReadyTimeout time.Duration
	// FirstWait and LastWait are the ends of the backoff: 200 ms and 5 s.
	FirstWait, LastWait time.Duration
	// Quick is the life below which a death counts as quick: 10 s.
	Quick time.Duration
}

// quickDeaths in a row end the run: the part will not get better by itself.
const quickDeaths = 5

// Supervisor runs parts. Make one with New, run it with Start.
type Supervisor struct {
	opts   Options
	parts  []*running
	byName map[string]*running

	failed chan struct{} // closed with the first fatal error
	once   sync.Once
	err    error
}

// running is a part and what is known of its process. One goroutine owns the
// process: others only signal it, or cancel its life.
type running struct {
	Part
	tail *proc.Tail

	end   context.CancelFunc // ends the part for good
	ended chan struct{}      // closed when its goroutine has ended

	mu      sync.Mutex
	process *proc.Process
	up      chan struct{}      // closed while the part is ready
	kill    bool               // the next death was asked for
	held    chan struct{}      // not nil: stopped on purpose, until it is closed
	endLife context.CancelFunc // stops the process, if there is one
	dead    chan struct{}      // closed when the life has ended
}

// New checks that the parts' names and dependencies make sense; each part
// comes after those it names.
func New(opts Options, parts ...Part) (*Supervisor, error) {
	setDefault(&opts.ReadyTimeout, time.Minute)
	setDefault(&opts.FirstWait, 200*time.Millisecond)
	setDefault(&opts.LastWait, 5*time.Second)
	setDefault(&opts.Quick, 10*time.Second)
	if opts.Output == nil {
		opts.Output = func(string) io.Writer { return io.Discard }
	}
	if opts.Event == nil {
		opts.Event = func(string, string) {}
	}
	s := &Supervisor{opts: opts, byName: map[string]*running{}, failed: make(chan struct{})}
	for _, p := range parts {
		if s.byName[p.Name] != nil {
			return nil, fmt.Errorf("part %s is listed twice", p.Name)
		}
		for _, dep := range p.After {
			if s.byName[dep] == nil {
				return nil, fmt.Errorf("part %s comes after %s, which is not listed before it", p.Name, dep)
			}
		}
		if p.Signal == 0 {
			p.Signal = syscall.SIGTERM
		}
		setDefault(&p.Grace, 10*time.Second)
		r := &running{Part: p, tail: &proc.Tail{}, up: make(chan struct{}), ended: make(chan struct{}), end: func() {}}
		s.parts = append(s.parts, r)
		s.byName[p.Name] = r
	}
	return s, nil
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d == 0 {
		*d = to
	}
}

// Start starts all parts and returns when all are ready, or with the error
// that keeps one from it. Stop must follow in either case.
func (s *Supervisor) Start(ctx context.Context) error {
	for _, r := range s.parts {
		// A part lives until Stop, not until ctx ends: they end in order.
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		r.end = end
		go func() {
			defer close(r.ended)
			if err := s.run(life, r); err != nil && life.Err() == nil {
				s.fail(fmt.Errorf("%s: %w", r.Name, err))
			}
		}()
	}
	return s.WaitReady(ctx)
}

// WaitReady returns when every part that is not stopped is ready.
func (s *Supervisor) WaitReady(ctx context.Context) error {
	for _, r := range s.parts {
		if err := s.waitFor(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Supervisor) waitFor(ctx context.Context, r *running) error {
	for {
		r.mu.Lock()
		up, held := r.up, r.held != nil
		r.mu.Unlock()
		if held {
			return nil
		}
		select {
		case <-up:
			return nil
		case <-s.failed:
			return s.err
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", r.Name, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond): // it may be held meanwhile
		}
	}
}

// Failed is closed when the run has failed; Err says why.
func (s *Supervisor) Failed() <-chan struct{} { return s.failed }

// Err returns what made the run fail; call it after Failed.
func (s *Supervisor) Err() error { return s.err }

func (s *Supervisor) fail(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.failed)
	})
}

// Stop ends all parts, each after those that depend on it, and returns when no
// process is left. Call it once, after Start.
func (s *Supervisor) Stop() {
	var wait sync.WaitGroup
	for _, r := range s.parts {
		wait.Go(func() {
			for _, other := range s.parts {
				if slices.Contains(other.After, r.Name) {
					<-other.ended
				}
			}
			r.end()
			<-r.ended
		})
	}
	wait.Wait()
}

// run keeps one part alive until ctx ends; its error ends the whole run.
func (s *Supervisor) run(ctx context.Context, r *running) error {
	for _, dep := range r.After {
		if err := s.waitFor(ctx, s.byName[dep]); err != nil {
			return nil //nolint:nilerr // the run ends, or has failed already
		}
	}
	quick, wait := 0, s.opts.FirstWait
	for {
		life, err := r.begin(ctx)
		if err != nil {
			return nil //nolint:nilerr // the run ends
		}
		began := time.Now()
		err = s.live(life, r)
		meant := r.bury() || life.Err() != nil
		r.finish()
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the run ends: how this process did does not matter
		case meant:
			s.opts.Event(r.Name, "was stopped")
			quick, wait = 0, s.opts.FirstWait
			continue
		case time.Since(began) > s.opts.Quick:
			quick, wait = 0, s.opts.FirstWait
		}
		quick++
		what := describe(err) + r.lastLines()
		if s.opts.NoRestart {
			return errors.New(what)
		}
		if quick >= quickDeaths {
			return fmt.Errorf("died %d times at once: %s", quick, what)
		}
		s.opts.Event(r.Name, fmt.Sprintf("%s\nstarting it again in %s", what, wait))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(wait*2, s.opts.LastWait)
	}
}

// begin waits until the part may run and opens its next life.
func (r *running) begin(ctx context.Context) (context.Context, error) {
	for {
		r.mu.Lock()
		held := r.held
		if held == nil && ctx.Err() == nil {
			life, end := context.WithCancel(ctx)
			r.endLife, r.dead = end, make(chan struct{})
			r.mu.Unlock()
			return life, nil
		}
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-held:
		}
	}
}

// bury forgets the process and reports whether its death was asked for.
func (r *running) bury() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	meant := r.kill
	r.kill = false
	return meant
}

// finish closes the life that begin opened.
func (r *running) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process = nil
	r.notReady()
	r.endLife()
	close(r.dead)
}

// notReady is called with mu held.
func (r *running) notReady() {
	select {
	case <-r.up:
		r.up = make(chan struct{})
	default:
	}
}

// live is one life of the part, from start to death. Its error says how it died.
func (s *Supervisor) live(ctx context.Context, r *running) error {
	out := io.MultiWriter(r.tail, s.opts.Output(r.Name))
	began := time.Now()
	starting, cancel := context.WithTimeout(ctx, s.opts.ReadyTimeout)
	defer cancel()
	p, err := r.Start(starting, out)
	if err != nil {
		return fmt.Errorf("does not start: %w", err)
	}
	r.mu.Lock()
	r.process = p
	r.mu.Unlock()
	if err := s.awaitReady(starting, r, p); err != nil {
		r.stop(p)
		return err
	}
	r.mu.Lock()
	close(r.up)
	r.mu.Unlock()
	s.opts.Event(r.Name, fmt.Sprintf("ready after %.1fs", time.Since(began).Seconds()))
	select {
	case <-p.Done():
		return p.Err()
	case <-ctx.Done():
		r.stop(p)
		return nil
	}
}

func (r *running) stop(p *proc.Process) {
	p.Signal(syscall.SIGCONT) // a paused one would not hear
	p.Stop(r.Signal, r.Grace)
}

func (s *Supervisor) awaitReady(ctx context.Context, r *running, p *proc.Process) error {
	if r.Ready == nil {
		return nil
	}
	for {
		err := r.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			if p.Err() == nil {
				return errors.New("ended before it was ready")
			}
			return p.Err()
		case <-ctx.Done():
			return fmt.Errorf("is not ready after %s: %w", s.opts.ReadyTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func describe(err error) string {
	if err == nil {
		return "ended by itself with status 0"
	}
	return err.Error()
}

func (r *running) lastLines() string {
	text := r.tail.String()
	if text == "" {
		return ""
	}
	return "\nits last lines:\n  " + strings.ReplaceAll(text, "\n", "\n  ")
}
