//go:build unix

package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a part that runs a shell script.
func script(name, text string, after ...string) Part {
	return Part{
		Name: name, After: after,
		Start: func(_ context.Context, out io.Writer) (*proc.Process, error) {
			cmd := exec.Command("sh", "-c", text)
			cmd.Stdout, cmd.Stderr = out, out
			return proc.Start(cmd, syscall.SIGKILL)
		},
		Grace: 2 * time.Second,
	}
}

// forever writes its pid, says on SIGTERM that it ends, and lives until then.
func forever(name, order string, after ...string) Part {
	return script(name, fmt.Sprintf(`trap 'echo -%s >>%s; exit 0' TERM; echo +%s >>%s; while :; do sleep 0.02; done`, name, order, name, order), after...)
}

// events collects what a supervisor says.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) add(part, what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, part+": "+what)
}

func (e *events) have(text string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.all, func(s string) bool { return strings.Contains(s, text) })
}

func quickly(e *events) Options {
	return Options{Event: e.add, FirstWait: time.Millisecond, LastWait: 5 * time.Millisecond, ReadyTimeout: 5 * time.Second}
}

func TestStartsInOrderAndStopsInReverse(t *testing.T) {
	t.Parallel()
	order := filepath.Join(t.TempDir(), "order")
	s, err := New(quickly(&events{}), forever("a", order), waiting(forever("b", order, "a"), order, "+b"), waiting(forever("c", order, "b"), order, "+c"))
	require.NoError(t, err)
	s.parts[0].Ready = contains(order, "+a")
	require.NoError(t, s.Start(t.Context()))
	pids := []int{s.Pid("a"), s.Pid("b"), s.Pid("c")}
	s.Stop()
	text, err := os.ReadFile(order)
	require.NoError(t, err)
	require.Equal(t, "+a\n+b\n+c\n-c\n-b\n-a\n", string(text))
	for _, pid := range pids {
		require.NotZero(t, pid)
		require.False(t, proc.Alive(pid))
	}
}

func contains(file, text string) func(context.Context) error {
	return func(context.Context) error {
		b, err := os.ReadFile(file)
		if err == nil && !strings.Contains(string(b), text) {
			return errors.New("not there yet")
		}
		return err
	}
}

func waiting(p Part, file, text string) Part {
	p.Ready = contains(file, text)
	return p
}

func TestPartThatDiesIsStartedAgainAndReported(t *testing.T) {
	t.Parallel()
	flag := filepath.Join(t.TempDir(), "flag")
	e := &events{}
	s, err := New(quickly(e), script("x", `if [ -e `+flag+` ]; then exec sleep 60; fi; echo my last words; touch `+flag+`; exit 3`))
	require.NoError(t, err)
	s.parts[0].Ready = contains(flag, "")
	defer s.Stop()
	require.NoError(t, s.Start(t.Context()))
	require.Eventually(t, func() bool { return e.have("exit status 3") && e.have("my last words") && s.Pid("x") != 0 }, time.Minute, time.Millisecond)
}

func TestFiveQuickDeathsEndTheRun(t *testing.T) {
	t.Parallel()
	s, err := New(quickly(&events{}), script("x", `echo broken; exit 1`), script("y", `exec sleep 60`))
	require.NoError(t, err)
	s.parts[0].Ready = func(context.Context) error { return errors.New("never") }
	defer s.Stop()
	require.ErrorContains(t, s.Start(t.Context()), "x: died 5 times at once: exit status 1\nits last lines:\n  broken")
}

func TestNoRestartEndsTheRun(t *testing.T) {
	t.Parallel()
	e := &events{}
	opts := quickly(e)
	opts.NoRestart = true
	s, err := New(opts, script("x", `exec sleep 60`))
	require.NoError(t, err)
	defer s.Stop()
	require.NoError(t, s.Start(t.Context()))
	require.NoError(t, syscall.Kill(s.Pid("x"), syscall.SIGKILL))
	<-s.Failed()
	require.ErrorContains(t, s.Err(), "x: signal: killed")
}

func TestKilledOnPurposeComesBackAndDoesNotCount(t *testing.T) {
	t.Parallel()
	e := &events{}
	s, err := New(quickly(e), script("x", `exec sleep 60`))
	require.NoError(t, err)
	defer s.Stop()
	require.NoError(t, s.Start(t.Context()))
	for range quickDeaths + 2 {
		old := s.Pid("x")
		require.NoError(t, s.Kill("x"))
		require.NoError(t, s.WaitPart(t.Context(), "x"))
		require.NotEqual(t, old, s.Pid("x"))
	}
}

func TestStoppedPartStaysStoppedUntilStarted(t *testing.T) {
	t.Parallel()
	s, err := New(quickly(&events{}), script("x", `exec sleep 60`))
	require.NoError(t, err)
	defer s.Stop()
	require.NoError(t, s.Start(t.Context()))
	for _, stop := range []func(string) error{s.StopPart, s.KillPart} {
		old := s.Pid("x")
		require.NoError(t, s.Pause("x"))
		require.NoError(t, stop("x"))
		require.Zero(t, s.Pid("x"))
		require.False(t, proc.Alive(old))
		require.NoError(t, s.WaitReady(t.Context()), "a stopped part is not waited for")
		require.NoError(t, s.StartPart(t.Context(), "x"))
		require.NotZero(t, s.Pid("x"))
	}
}

func TestNotReadyInTime(t *testing.T) {
	t.Parallel()
	opts := quickly(&events{})
	opts.ReadyTimeout = 30 * time.Millisecond
	opts.NoRestart = true
	s, err := New(opts, script("x", `exec sleep 60`), script("y", `exec sleep 60`, "x"))
	require.NoError(t, err)
	s.parts[0].Ready = func(context.Context) error { return errors.New("database away") }
	require.ErrorContains(t, s.Start(t.Context()), "x: is not ready after 30ms: database away")
	s.Stop()
}

func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	s, err := New(quickly(&events{}), script("x", `exec sleep 60`), script("y", `exec sleep 60`, "x"))
	require.NoError(t, err)
	s.parts[0].Ready = func(context.Context) error { return errors.New("not yet") }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, s.Start(ctx), "x is not ready")
	s.Stop()
}

func TestListMustBeInOrder(t *testing.T) {
	t.Parallel()
	_, err := New(Options{}, script("a", "", "b"), script("b", ""))
	require.EqualError(t, err, "part a comes after b, which is not listed before it")
	_, err = New(Options{}, script("a", ""), script("a", ""))
	require.EqualError(t, err, "part a is listed twice")
}
