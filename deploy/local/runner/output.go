//go:build unix

package runner

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// console is the one stream that everything is printed on, and the files
// beside it that hold all of it.
type console struct {
	mu      sync.Mutex
	out     io.Writer
	color   bool
	verbose bool
	quiet   bool // while the run stops, its parts have nothing of interest to say
	dir     string
	writers map[string]*partWriter
}

func newConsole(out io.Writer, verbose bool, dir string, getenv func(string) string) *console {
	return &console{out: out, verbose: verbose, dir: dir, color: isTerminal(out) && getenv("NO_COLOR") == "", writers: map[string]*partWriter{}}
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// say prints a line of the runner itself.
func (c *console) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
}

// event prints what happened to a part.
func (c *console) event(part, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet {
		return
	}
	for line := range strings.SplitSeq(what, "\n") {
		c.line(part, line)
	}
}

func (c *console) setQuiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = true
}

// Bright enough on black and dark enough on white.
var colors = []string{"36", "33", "32", "35", "34", "31", "96", "93", "92", "95"}

const nameWidth = 22

// line is called with mu held.
func (c *console) line(part, text string) {
	name := fmt.Sprintf("%-*s", nameWidth, part)
	if c.color {
		sum := 0
		for _, b := range []byte(part) {
			sum += int(b)
		}
		name = "\x1b[" + colors[sum%len(colors)] + "m" + name + "\x1b[0m"
	}
	_, _ = fmt.Fprintf(c.out, "%s │ %s\n", name, text)
}

// writer returns where a part's output goes, always the same one.
func (c *console) writer(part string) io.Writer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.writers[part]; w != nil {
		return w
	}
	w := &partWriter{console: c, part: part}
	if file, err := os.Create(filepath.Join(c.dir, part+".log")); err == nil {
		w.file = file
	}
	c.writers[part] = w
	return w
}

func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.writers {
		if w.file != nil {
			_ = w.file.Close()
		}
	}
}

// partWriter splits a part's output into lines.
type partWriter struct {
	console *console
	part    string
	file    *os.File
	rest    []byte
}

const maxLine = 64 << 10

// Write never fails: a full disk must not stop a service by its log.
func (w *partWriter) Write(p []byte) (int, error) {
	c := w.console
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.file != nil {
		_, _ = w.file.Write(p)
	}
	n := len(p)
	for {
		line, after, found := bytes.Cut(p, []byte{'\n'})
		if len(w.rest)+len(line) <= maxLine {
			w.rest = append(w.rest, line...)
		}
		if !found {
			return n, nil
		}
		if text := string(w.rest); c.verbose || !c.quiet && matters(text) {
			c.line(w.part, text)
		}
		w.rest = w.rest[:0]
		p = after
	}
}

// matters reports whether a line is shown without -v.
func matters(line string) bool {
	for _, mark := range []string{"level=WARN", "level=ERROR", `"level":"WARN"`, `"level":"ERROR"`, "panic: ", "PANIC: ", "fatal error: "} {
		if strings.Contains(line, mark) {
			return true
		}
	}
	return false
}
