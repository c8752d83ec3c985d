//go:build unix

package proc

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// Tail is a writer that keeps the last lines written to it, for the message
// about a process that died. The zero value keeps 20.
type Tail struct {
	mu    sync.Mutex
	lines []string
	rest  []byte
}

const (
	tailLines = 20
	tailLine  = 2000 // bytes kept of a line
)

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	for {
		line, after, found := bytes.Cut(p, []byte{'\n'})
		t.rest = append(t.rest, line[:min(len(line), max(0, tailLine-len(t.rest)))]...)
		if !found {
			return n, nil
		}
		t.lines = append(t.lines, string(t.rest))
		if len(t.lines) > tailLines {
			t.lines = slices.Delete(t.lines, 0, len(t.lines)-tailLines)
		}
		t.rest = t.rest[:0]
		p = after
	}
}

// String returns the lines.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.lines
	if len(t.rest) > 0 {
		all = append(slices.Clone(all), string(t.rest))
	}
	return strings.Join(all, "\n")
}
