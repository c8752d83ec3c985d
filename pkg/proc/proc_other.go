//go:build unix && !linux

package proc

import "syscall"

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

func relaxTimers() {}

// RelaxTimers does nothing here: there is no slack to set.
func RelaxTimers() error { return nil }
