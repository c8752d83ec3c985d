//go:build unix && !linux

package proc

import "syscall"

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

func relax() {}

// Relax does nothing here: this is Linux's.
func Relax() error { return nil }
