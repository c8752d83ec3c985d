package proc

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
)

func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// timerSlack is how late the kernel may fire a child's timers; Linux's default is
// 50 us. A Go process that wakes up a thousand times per second has its runtime's
// monitor (sysmon) ask for sleeps of 20 us all that time, and a dozen such
// processes on two cores mostly switch to their monitors: with 1 ms they switch
// half as often for the same work.
const timerSlack = time.Millisecond

// relaxTimers sets the calling thread's slack, which what it starts inherits:
// see PR_SET_TIMERSLACK in prctl(2). Where it is refused, the default stays.
func relaxTimers() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, uintptr(timerSlack), 0)
}

// RelaxTimers gives this program the timers of what Start starts, by replacing it
// with itself: threads that run already keep theirs. So call it first. It returns
// where nothing is to be done, or nothing can be.
func RelaxTimers() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slack() >= timerSlack {
		return nil
	}
	if relaxTimers(); slack() < timerSlack {
		return nil
	}
	program, err := os.Executable()
	if err == nil {
		err = syscall.Exec(program, os.Args, os.Environ()) //nolint:gosec // itself
	}
	return fmt.Errorf("start again with relaxed timers: %w", err)
}

// slack is the calling thread's; 0 where it cannot be read.
func slack() time.Duration {
	ns, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_GET_TIMERSLACK, 0, 0)
	if errno != 0 {
		return 0
	}
	return time.Duration(ns)
}
