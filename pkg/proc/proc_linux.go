package proc

import (
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
