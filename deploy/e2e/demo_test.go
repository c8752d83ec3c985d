//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// `ONCE=1 make demo`, twice, beside the platform under test: three orders each
// time, the second run finds those of the first, and no process is left.
func TestTheDemoPlaysItsOrdersAndLeavesNoProcess(t *testing.T) {
	if !local(t) {
		return
	}
	dir := t.TempDir()
	demo := func() string {
		out, err := besides(t, dir, "demo", "ONCE=1").CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	first := demo()
	for _, want := range []string{"payment.completed", "to=delivered", "payment.failed", "order.cancelled", "payment.refunded", "all three orders ended as promised", "built in"} {
		require.Contains(t, first, want)
	}
	require.NotContains(t, first, "earlier")
	second := demo()
	require.Contains(t, second, "earlier")
	for line := range strings.SplitSeq(first, "\n") {
		if id, ok := strings.CutPrefix(line, "order "); ok {
			id, _, _ = strings.Cut(id, ":")
			require.Contains(t, second, id, "the second run lists the first one's orders")
		}
	}
	require.Empty(t, processes(t, dir))
}

// `make run` that is ended by a signal to make alone, as a supervisor sends it,
// stops everything in order too.
func TestEndingMakeEndsEverything(t *testing.T) {
	if !local(t) {
		return
	}
	dir := t.TempDir()
	cmd := besides(t, dir, "run")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	running := false
	for !running && lines.Scan() {
		running = strings.HasPrefix(lines.Text(), "running; ")
	}
	require.True(t, running, "make run ended before everything ran")
	require.NotEmpty(t, processes(t, dir))
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	patient := time.AfterFunc(patience, func() { out.Close() })
	defer patient.Stop()
	stopping := false
	for lines.Scan() { // until nobody has the other end any more
		stopping = stopping || lines.Text() == "stopping"
	}
	require.True(t, stopping)
	require.Error(t, cmd.Wait(), "make was ended by a signal")
	require.Empty(t, processes(t, dir))
}

// besides is a make target that runs beside the platform under test, in dir.
func besides(t *testing.T, dir, target string, environ ...string) *exec.Cmd {
	t.Helper()
	opts, err := runner.OptionsFrom(os.Getenv)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), "make", "-C", "../..", target)
	cmd.Env = append(os.Environ(), "REPLICAS=1", "TIFFIN_DIR="+dir, fmt.Sprintf("TIFFIN_PORT_OFFSET=%d", opts.PortOffset+3000))
	cmd.Env = append(cmd.Env, environ...)
	t.Cleanup(func() {
		_ = exec.Command("pkill", "-f", dir).Run() // what a broken version left
		clean := exec.Command("make", "-C", "../..", "clean-data")
		clean.Env = cmd.Env
		out, err := clean.CombinedOutput()
		require.NoError(t, err, string(out))
	})
	return cmd
}

// processes lists those whose command line names dir.
func processes(t *testing.T, dir string) string {
	t.Helper()
	found, _ := exec.CommandContext(t.Context(), "pgrep", "-a", "-f", dir).Output() // an error when there is none
	return string(found)
}
