//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// These lines of the README start, stop or test the whole; running them inside
// a running platform would make no sense. The checks run them by themselves:
// here it only has to be true that make knows them.
var starters = regexp.MustCompile(`^(make (demo|test|run\b.*|e2e\b.*|bench\b.*|chaos\b.*)|docker compose up --build -d --wait|git clone .*|cd tiffin)$`)

// The README's shell blocks are extracted and run as they stand, in their
// order, in one shell, against the running platform.
func TestTheReadmesCommandsWork(t *testing.T) {
	if target.name != "local" {
		t.Log("the README is about the local runner")
		return
	}
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	var script []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.SplitSeq(block[1], "\n") {
			if starters.MatchString(line) {
				if rest, ok := strings.CutPrefix(line, "make "); ok {
					cmd := exec.CommandContext(t.Context(), "make", append([]string{"-n"}, strings.Fields(rest)...)...)
					cmd.Dir = root
					out, err := cmd.CombinedOutput()
					require.NoError(t, err, "%s: %s", line, out)
				}
				continue
			}
			script = append(script, line)
		}
	}
	require.NotEmpty(t, script)

	file := filepath.Join(t.TempDir(), "readme.sh")
	body := strings.ReplaceAll(strings.Join(script, "\n"), "http://localhost:5000", target.base)
	// A failed command, an unset variable or an empty id must not pass unseen.
	require.NoError(t, os.WriteFile(file, []byte("set -eu\n"+body), 0o600))
	cmd := exec.CommandContext(t.Context(), "sh", file)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), target.environ...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	for _, want := range []string{
		`"name":"Saffron & Smoke"`, `"status":"pending"`, "event: order", "event: timeline",
		"payment.completed", "order_placed", `"status":"cancelled"`, "pm_card_visa_chargeDeclined",
	} {
		require.Contains(t, string(out), want)
	}
	require.NotContains(t, string(out), "/problems/", "no command was refused")
}
