//go:build unix && !linux

package proc

import "syscall"

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

func relaxTimers() {}
