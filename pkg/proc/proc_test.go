//go:build unix

package proc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The test binary plays the parent that is killed, or a program that relaxes its
// timers, when it is told so.
const (
	parentEnv = "PROC_TEST_PARENT"
	relaxEnv  = "PROC_TEST_RELAX"
)

func TestMain(m *testing.M) {
	if os.Getenv(relaxEnv) != "" {
		if err := RelaxTimers(); err != nil {
			panic(err)
		}
		fmt.Println(strings.Join(os.Args[1:], " "))
		for _, thread := range threads() {
			fmt.Println(thread)
		}
		return
	}
	if os.Getenv(parentEnv) != "" {
		p, err := Start(exec.Command("sleep", "600"), syscall.SIGKILL)
		if err != nil {
			panic(err)
		}
		fmt.Println(p.Pid())
		<-p.Done()
		return
	}
	goleak.VerifyTestMain(m)
}

func sh(script string) *exec.Cmd { return exec.Command("sh", "-c", script) }

func TestStopTriesTheSignalThenKills(t *testing.T) {
	t.Parallel()
	p, err := Start(sh(`trap 'exit 7' TERM; while :; do sleep 0.01; done`), syscall.SIGKILL)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // until the trap is set
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.Done():
			return true
		default:
			return false
		}
	}, 5*time.Second, 20*time.Millisecond)

	p, err = Start(sh(`trap '' TERM; while :; do sleep 0.01; done`), syscall.SIGKILL)
	require.NoError(t, err)
	p.Stop(syscall.SIGTERM, 50*time.Millisecond)
	require.ErrorContains(t, p.Err(), "signal: ")
	require.False(t, Alive(p.Pid()))
	p.Signal(syscall.SIGTERM) // of a process that is gone: nothing happens
}

func TestStartNamesTheProgram(t *testing.T) {
	t.Parallel()
	_, err := Start(exec.Command("/no/such/program"), syscall.SIGKILL)
	require.ErrorContains(t, err, "start program: ")
}

func TestGrandchildHoldingTheOutputDoesNotHoldDone(t *testing.T) {
	t.Parallel()
	cmd := sh(`sleep 600 & echo $!`)
	cmd.WaitDelay = 50 * time.Millisecond
	var tail Tail
	cmd.Stdout = &tail
	p, err := Start(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		require.FailNow(t, "waits for the grandchild")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(tail.String()))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestChildDiesWithItsParent(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Log("the kernel does not pass a parent's death on; StopStray does at the next start")
		return
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"=1")
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	var child int
	_, err = fmt.Fscan(out, &child)
	require.NoError(t, err)
	require.True(t, Alive(child))
	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	// Its entry stays until somebody collects it; what counts is that it does not run.
	require.Eventually(t, func() bool { return CommandLine(child) == "" }, time.Minute, 5*time.Millisecond)
}

func TestChildHasRelaxedTimers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Log("there is no timer slack to set")
		return
	}
	cmd := exec.Command("cat", "/proc/self/timerslack_ns")
	var tail Tail
	cmd.Stdout = &tail
	p, err := Start(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	<-p.Done()
	require.NoError(t, p.Err())
	require.Equal(t, "1000000", strings.TrimSpace(tail.String()))
}

// threads returns the slack of each of this process's threads.
func threads() []string {
	var all []string
	ids, _ := filepath.Glob("/proc/self/task/*")
	for _, id := range ids {
		text, err := os.ReadFile(filepath.Join("/proc", filepath.Base(id), "timerslack_ns"))
		if err == nil { // a thread may have ended
			all = append(all, strings.TrimSpace(string(text)))
		}
	}
	return all
}

func TestAProgramRelaxesItsOwnTimers(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Log("there is no timer slack to set")
		return
	}
	cmd := exec.Command(os.Args[0], "with", "arguments")
	cmd.Env = append(os.Environ(), relaxEnv+"=1")
	out, err := cmd.Output()
	require.NoError(t, err)
	lines := strings.Fields(strings.TrimPrefix(string(out), "with arguments\n"))
	require.Greater(t, len(lines), 1, "threads of %q", out)
	for _, slack := range lines {
		require.Equal(t, "1000000", slack)
	}
}

func TestStopStray(t *testing.T) {
	t.Parallel()
	p, err := Start(exec.Command("sleep", "601"), syscall.SIGKILL)
	require.NoError(t, err)
	// The kernel wakes the parent of a vfork before it has set the child's arguments.
	require.Eventually(t, func() bool { return CommandLine(p.Pid()) == "sleep 601" }, time.Minute, time.Millisecond)
	require.False(t, StopStray(p.Pid(), "another program", syscall.SIGTERM, time.Second), "the id was used again")
	require.True(t, Alive(p.Pid()))
	require.True(t, StopStray(p.Pid(), "sleep 601", syscall.SIGTERM, time.Second))
	<-p.Done()
	require.False(t, StopStray(p.Pid(), "sleep 601", syscall.SIGTERM, time.Second), "it is gone")
}

func TestTailKeepsTheLastLines(t *testing.T) {
	t.Parallel()
	var tail Tail
	for i := range 100 {
		_, _ = fmt.Fprintf(&tail, "line %d\n", i)
	}
	_, _ = tail.Write([]byte("un"))
	_, _ = tail.Write([]byte("finished"))
	lines := strings.Split(tail.String(), "\n")
	require.Len(t, lines, tailLines+1)
	require.Equal(t, "line 80", lines[0])
	require.Equal(t, "unfinished", lines[tailLines])
	_, _ = tail.Write([]byte(strings.Repeat("x", 1<<20) + "\n"))
	require.Less(t, len(tail.String()), 5000)
}
