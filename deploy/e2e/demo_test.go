//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// `ONCE=1 make demo`, twice, beside the platform under test: three orders each
// time, the second run finds those of the first, and no process is left.
func TestTheDemoPlaysItsOrdersAndLeavesNoProcess(t *testing.T) {
	if !local(t) {
		return
	}
	opts, err := runner.OptionsFrom(os.Getenv)
	require.NoError(t, err)
	dir := t.TempDir()
	demo := func() string {
		cmd := exec.CommandContext(t.Context(), "make", "-C", "../..", "demo")
		cmd.Env = append(os.Environ(), "ONCE=1", "REPLICAS=1", "TIFFIN_DIR="+dir, fmt.Sprintf("TIFFIN_PORT_OFFSET=%d", opts.PortOffset+3000))
		out, err := cmd.CombinedOutput()
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
	left, err := exec.CommandContext(t.Context(), "pgrep", "-f", dir).Output()
	require.Empty(t, string(left), "processes of the demo are left: %v", err)
}
