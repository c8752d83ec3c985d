//go:build unix

// Package proc runs child processes that do not outlive their parent, and
// finds out about processes that an earlier run left behind.
package proc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a running child.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts cmd in a process group of its own, so that a Ctrl-C at the
// terminal reaches the parent only, which then stops its children in order.
// Where the kernel can (Linux), the child gets death when the parent dies, also
// by kill -9; elsewhere a pid file and StopStray must do at the next start. There
// its timers may also fire up to 1 ms late, which spares many wake-ups.
func Start(cmd *exec.Cmd, death syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	setDeathSignal(cmd.SysProcAttr, death)
	if cmd.WaitDelay == 0 {
		// A grandchild that keeps the output open must not hold Wait for ever.
		cmd.WaitDelay = 2 * time.Second
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal is sent when the *thread* that forked ends, so this
		// goroutine keeps its thread until the child is gone. It is not
		// unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		relaxTimers()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and all its output was read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended; call it after Done. Nil is status 0.
func (p *Process) Err() error { return p.err }

// Signal sends sig. A process that has ended already is no error.
func (p *Process) Signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
}

// Stop sends sig, waits for grace, then kills, and returns when the process is gone.
func (p *Process) Stop(sig syscall.Signal, grace time.Duration) {
	p.Signal(sig)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// CommandLine returns the arguments of a running process, "" when there is none.
func CommandLine(pid int) string {
	if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")); err == nil {
		return strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
	}
	if _, err := os.Stat("/proc/self/cmdline"); err == nil {
		return ""
	}
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec // a number
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// Alive reports whether pid exists, also as another user's.
func Alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || err == syscall.EPERM
}

// StopStray ends a process that an earlier run left behind, if its command line
// still contains marker: process ids are used again. It reports whether there
// was one, and returns when it is gone.
func StopStray(pid int, marker string, sig syscall.Signal, grace time.Duration) bool {
	mine := func() bool { return pid > 1 && strings.Contains(CommandLine(pid), marker) }
	if !mine() {
		return false
	}
	_ = syscall.Kill(pid, sig)
	end := time.Now().Add(grace)
	for killed := false; mine(); time.Sleep(20 * time.Millisecond) {
		if !killed && time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			killed = true
			end = end.Add(5 * time.Second)
		} else if killed && time.Now().After(end) {
			break // unkillable: whoever comes next reports the busy port
		}
	}
	return true
}
