//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var fiveServices = []string{"gateway", "auth-service", "order-service", "payment-service", "notification-service"}

// pss is a process's proportional set size in KiB: what it would free.
func pss(t *testing.T, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var kib int
		if _, err := fmt.Sscanf(lines.Text(), "Pss: %d kB", &kib); err == nil {
			return kib
		}
	}
	require.Fail(t, "no Pss")
	return 0
}

// Each service is started anew on its migrated database, and all are measured
// with nothing to do. After load the collector gives memory back within minutes.
func TestFiveIdleServicesAreSmallAndStartFast(t *testing.T) {
	if !local(t) {
		return
	}
	if _, err := os.Stat("/proc/self/smaps_rollup"); err != nil {
		t.Log("this system does not tell a process's share of memory")
		return
	}
	for _, s := range fiveServices {
		require.NoError(t, target.platform.StopPart(s))
		begin := time.Now()
		require.NoError(t, target.platform.StartPart(t.Context(), s))
		took := time.Since(begin)
		t.Logf("%s ready after %s", s, took)
		require.Less(t, took, time.Second)
	}
	eventually(t, "five services in 150 MiB", func() string {
		total := 0
		var each []string
		for _, s := range fiveServices {
			kib := pss(t, target.platform.Pid(s))
			total += kib
			each = append(each, fmt.Sprintf("%s %d MiB", s, kib>>10))
		}
		found := fmt.Sprintf("%d MiB: %s", total>>10, strings.Join(each, ", "))
		if total>>10 > 150 {
			return found
		}
		t.Log(found)
		return ""
	})
}
