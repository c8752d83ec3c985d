package load

import (
	"syscall"
	"time"
)

func sleepUntil(due time.Time) {
	for wait := time.Until(due); wait > 0; wait = time.Until(due) {
		ts := syscall.NsecToTimespec(int64(wait))
		_ = syscall.Nanosleep(&ts, nil) // cut short by a signal: the loop sleeps on
	}
}
