package proc

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// timerSlack is how late the kernel may fire a child's timers; Linux's default is
// 50 us. A Go process that wakes up a thousand times per second has its runtime's
// monitor (sysmon) ask for sleeps of 20 us all that time, and a dozen such
// processes on two cores mostly switch to their monitors: with 1 ms they switch
// half as often for the same work.
const timerSlack = time.Millisecond

// schedBatch is SCHED_BATCH of sched(7): a process that wakes up does not
// interrupt the one that runs. Where processes answer each other all the time,
// each gets further before it is left, and finds its caches warm.
const schedBatch = 3

// relax sets both for the calling thread; what it starts inherits them. Where
// they are refused, the defaults stay.
func relax() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_TIMERSLACK, uintptr(timerSlack), 0)
	// Its sched_param: a priority, which this policy has none of.
	var priority int32
	_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_SETSCHEDULER, 0, schedBatch, uintptr(unsafe.Pointer(&priority))) //nolint:gosec // a struct of one int
}

// Relax has this program scheduled as what Start starts, by replacing it with
// itself: threads that run already keep what they have. So call it first. It
// returns where nothing is to be done, or nothing can be.
func Relax() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if slack() >= timerSlack {
		return nil
	}
	if relax(); slack() < timerSlack {
		return nil
	}
	program, err := os.Executable()
	if err == nil {
		err = syscall.Exec(program, os.Args, os.Environ()) //nolint:gosec // itself
	}
	return fmt.Errorf("start again, relaxed: %w", err)
}

// slack is the calling thread's; 0 where it cannot be read.
func slack() time.Duration {
	ns, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_GET_TIMERSLACK, 0, 0)
	if errno != 0 {
		return 0
	}
	return time.Duration(ns)
}
