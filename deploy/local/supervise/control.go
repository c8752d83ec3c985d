//go:build unix

package supervise

import (
	"context"
	"fmt"
	"syscall"
)

func (s *Supervisor) find(name string) (*running, error) {
	r := s.byName[name]
	if r == nil {
		return nil, fmt.Errorf("there is no part %s", name)
	}
	return r, nil
}

// Kill ends the part as kill -9 does. It is started again, without a wait, and
// the death does not count.
func (s *Supervisor) Kill(name string) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return fmt.Errorf("%s does not run", name)
	}
	r.kill = true
	r.notReady() // from this moment on, not when its death is noticed
	r.process.Signal(syscall.SIGKILL)
	return nil
}

// StopPart ends the part and returns when it is gone; it stays so until StartPart.
func (s *Supervisor) StopPart(name string) error { return s.hold(name, false) }

// KillPart is StopPart by kill -9.
func (s *Supervisor) KillPart(name string) error { return s.hold(name, true) }

func (s *Supervisor) hold(name string, kill bool) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.held == nil {
		r.held = make(chan struct{})
	}
	if kill && r.process != nil {
		r.kill = true // its death may be noticed before its life is ended below
		r.process.Signal(syscall.SIGKILL)
	}
	endLife, dead := r.endLife, r.dead
	r.mu.Unlock()
	if endLife != nil {
		endLife()
		<-dead
	}
	return nil
}

// StartPart starts a stopped part and returns when it is ready.
func (s *Supervisor) StartPart(ctx context.Context, name string) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	if r.held != nil {
		close(r.held)
		r.held = nil
	}
	r.mu.Unlock()
	return s.waitFor(ctx, r)
}

// Pause stops the part's process where it is (SIGSTOP): it holds its
// connections and answers nothing, as in a long pause of its machine.
func (s *Supervisor) Pause(name string) error { return s.signal(name, syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Supervisor) Resume(name string) error { return s.signal(name, syscall.SIGCONT) }

func (s *Supervisor) signal(name string, sig syscall.Signal) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return fmt.Errorf("%s does not run", name)
	}
	r.process.Signal(sig)
	return nil
}

// Pid returns the part's process id, 0 when it does not run.
func (s *Supervisor) Pid(name string) int {
	r := s.byName[name]
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process == nil {
		return 0
	}
	return r.process.Pid()
}

// WaitPart returns when the part is ready.
func (s *Supervisor) WaitPart(ctx context.Context, name string) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	return s.waitFor(ctx, r)
}
