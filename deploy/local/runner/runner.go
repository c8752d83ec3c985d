//go:build unix

package runner

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/local/supervise"
)

// Platform is a running platform. Its parts can be killed, stopped, started
// and paused by name: gateway, auth-service, order-service, payment-service,
// notification-service (a second replica: order-service-2), kafka,
// postgres-auth, postgres-order, postgres-payment, postgres-notification.
type Platform struct {
	Options
	*supervise.Supervisor
	console *console
	parts   []string
	unlock  func()
}

// Start builds, finds and starts everything and returns when all of it is
// ready. When it fails, nothing is left running.
func Start(ctx context.Context, opts Options) (*Platform, error) {
	o, err := opts.complete()
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(ctx, o)
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, o)
	if err != nil {
		unlock()
		return nil, err
	}
	p.unlock = unlock
	return p, nil
}

func start(ctx context.Context, o Options) (*Platform, error) {
	logs := filepath.Join(o.Dir, "log")
	for _, dir := range []string{logs, filepath.Join(o.Dir, "run")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	c := newConsole(o.Out, o.Verbose, logs, o.getenv)
	stopStrays(o, prepared{}, c)
	_, uses := parts(o, prepared{})
	// Before the build, so that nobody waits for it in vain.
	if err := checkPorts(ctx, ownPorts(uses)); err != nil {
		return nil, err
	}
	pre, err := prepare(ctx, o, c)
	if err != nil {
		return nil, err
	}
	stopStrays(o, pre, c)
	list, uses := parts(o, pre)
	if err := checkPorts(ctx, uses); err != nil {
		return nil, err
	}
	s, err := supervise.New(supervise.Options{NoRestart: o.NoRestart, Output: c.writer, Event: c.event}, list...)
	if err != nil {
		return nil, err
	}
	p := &Platform{Options: o, Supervisor: s, console: c, unlock: func() {}}
	for _, part := range list {
		p.parts = append(p.parts, part.Name)
	}
	began := time.Now()
	if err := s.Start(ctx); err != nil {
		c.setQuiet()
		s.Stop()
		c.close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("interrupted: %w", ctx.Err())
		}
		return nil, err
	}
	c.say("%s ready in %.1fs, logs in %s", plural(len(list), "part", "parts"), time.Since(began).Seconds(), logs)
	return p, nil
}

// ownPorts leaves out those of PostgreSQL, which a server of an earlier run
// may still hold: it is stopped when it is known which directory is in use.
func ownPorts(uses []use) []use {
	var list []use
	for _, u := range uses {
		if !strings.HasPrefix(u.part, "postgres-") {
			list = append(list, u)
		}
	}
	return list
}

// Stop stops everything in reverse order and leaves no process behind.
func (p *Platform) Stop() {
	p.console.setQuiet()
	p.Supervisor.Stop()
	files, _ := filepath.Glob(filepath.Join(p.Dir, "run", "*.pid"))
	for _, file := range files {
		_ = os.Remove(file)
	}
	p.console.close()
	p.unlock()
}

// Restart stops a part in order and starts it again; it returns when it is ready.
func (p *Platform) Restart(ctx context.Context, part string) error {
	if err := p.StopPart(part); err != nil {
		return err
	}
	return p.StartPart(ctx, part)
}

// Parts lists the names of what runs, in starting order.
func (p *Platform) Parts() []string { return p.parts }

// AdminURL returns where a service's replica serves metrics and health.
func (p *Platform) AdminURL(part string) string {
	for _, s := range services {
		for n := range p.Replicas {
			if instance(s.name, n) == part {
				return local(p.admin(s.name) + n*secondReplica)
			}
		}
	}
	return ""
}

// LogFile returns the file that holds all that a part wrote in this run.
func (p *Platform) LogFile(part string) string { return filepath.Join(p.Dir, "log", part+".log") }
