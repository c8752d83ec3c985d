package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrNoProc says that this system has no /proc to read a process's use from.
var ErrNoProc = errors.New("CPU and memory of processes are read from /proc, which this system does not have")

// tick is the kernel's USER_HZ, which is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// CPU returns the processor time that a process and its threads have used.
func CPU(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	user, userErr := strconv.ParseInt(fields[11], 10, 64)
	system, systemErr := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(userErr, systemErr); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * tick, nil
}

// stat returns the fields of /proc/<pid>/stat from the third on: the second is
// the program's name, which may hold anything.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		if _, noProc := os.Stat("/proc/self/stat"); noProc != nil {
			return nil, ErrNoProc
		}
		return nil, err
	}
	return statFields(string(b))
}

func statFields(line string) ([]string, error) {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) < 22 {
		return nil, fmt.Errorf("stat has %d fields", len(fields))
	}
	return fields, nil
}

// Machine returns the processor time that everything on this machine has used.
func Machine() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, ErrNoProc
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal ...
	if len(fields) < 9 {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var used time.Duration
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		if idle := i == 3 || i == 4; !idle {
			used += time.Duration(n) * tick
		}
	}
	return used, nil
}

// Family returns pid and every process below it: PostgreSQL and nginx work in
// children.
func Family(pid int) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) == 0 {
		return nil, ErrNoProc
	}
	children := map[int][]int{}
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		fields, err := stat(child)
		if err != nil {
			continue // it has ended
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		children[parent] = append(children[parent], child)
	}
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

// FamilyCPU sums CPU over pid and what is below it. The time of children that
// have ended and were waited for counts too.
func FamilyCPU(pid int) (time.Duration, error) {
	family, err := Family(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for i, member := range family {
		used, err := CPU(member)
		if err != nil {
			if i == 0 {
				return 0, err
			}
			continue // a child that has ended meanwhile
		}
		sum += used
	}
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	for _, f := range fields[13:15] {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil {
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

// RSS returns the resident memory of pid and what is below it, in MiB.
func RSS(pid int) (float64, error) {
	family, err := Family(pid)
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, member := range family {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(member), "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
				if err != nil {
					return 0, fmt.Errorf("VmRSS of %d: %w", member, err)
				}
				sum += kb / 1024
			}
		}
	}
	return sum, nil
}
