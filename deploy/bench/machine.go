//go:build unix

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// machine describes where a result comes from.
func machine() string {
	text := fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	for _, fact := range []struct{ file, key string }{{"/proc/cpuinfo", "model name"}, {"/proc/meminfo", "MemTotal"}} {
		b, err := os.ReadFile(fact.file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == fact.key {
				text += ", " + strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		text += ", load before the run " + strings.Fields(string(b))[0]
	}
	return text
}
