package deadletter_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Operators that are killed are processes of their own: the test binary again.
const (
	envURL  = "DEADLETTER_TEST_URL"
	envKill = "DEADLETTER_TEST_KILL" // "1": dies after its first transaction
)

const patience = time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(envURL) != "" {
		if err := childMain(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "child operator:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func childMain(ctx context.Context) error {
	pool, err := postgres.Open(ctx, postgres.Config{URL: os.Getenv(envURL), MaxConns: 2})
	if err != nil {
		return err
	}
	cmd := deadletter.Command{Actor: "child"}
	if os.Getenv(envKill) != "" {
		cmd.Progress = func(int) {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	_, err = deadletter.NewStore(outbox.NewDB(pool, nil), group).Redrive(ctx, cmd)
	return err
}

func (r rig) child(kill string) *proc.Process {
	r.t.Helper()
	self, err := os.Executable()
	require.NoError(r.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envURL+"="+r.db.Pool.Config().ConnString(), envKill+"="+kill)
	cmd.Stderr = os.Stderr
	p, err := proc.Start(cmd, syscall.SIGKILL)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { p.Stop(syscall.SIGKILL, patience) })
	return p
}

// consistent requires the letters that are on their way to be those that have a
// record, and a line in the log, each.
func (r rig) consistent() {
	r.t.Helper()
	require.Zero(r.t, r.count(`select count(*) from msg.dead_letters l
		where (l.status = 'redriven') <> ((select count(*) from msg.outbox o where o.event_id = l.event_id) = 1)
		   or (l.status = 'redriven') <> ((select count(*) from msg.dead_letter_changes c where c.dead_letter = l.id) = 1)`))
	require.Equal(r.t, r.count(`select count(*) from msg.outbox`), r.count(`select coalesce(sum(changed), 0) from msg.dead_letter_operations`))
}

// An operator's process that dies half-way leaves letters that are sent and
// letters that are not; the next ones, two at once, send the rest.
func TestAKilledRedriveIsGoneOnWith(t *testing.T) {
	r := setup(t)
	r.some(450)
	killed := r.child("1")
	<-killed.Done()
	require.ErrorContains(t, killed.Err(), "killed")
	sent := r.count(`select count(*) from msg.outbox`)
	require.Positive(t, sent)
	require.Less(t, sent, 450)
	r.consistent()
	require.Equal(t, 1, r.count(`select count(*) from msg.dead_letter_operations where ended is null`), "the log tells that it did not end")

	for range 2 { // twice: what one of them had locked, the other left out
		both := []*proc.Process{r.child(""), r.child("")}
		for _, p := range both {
			<-p.Done()
			require.NoError(t, p.Err())
		}
	}
	require.Equal(t, 450, r.count(`select count(*) from msg.outbox`))
	r.consistent()
}

// One that dies while its COMMIT is under way has done all of it or nothing.
func TestARedriveKilledDuringItsCommitIsWholeOrNothing(t *testing.T) {
	r := setup(t)
	r.some(30)
	tx, err := r.db.Pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `lock table msg.outbox in share mode`)
	require.NoError(t, err)
	p := r.child("")
	require.Eventually(t, func() bool {
		return r.count(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) == 1
	}, patience, 5*time.Millisecond, "the letters are changed, the records are not written")
	p.Stop(syscall.SIGKILL, patience)
	require.NoError(t, tx.Rollback(t.Context()))
	// The server notices that the client is gone once it has the lock.
	require.Eventually(t, func() bool {
		return r.count(`select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()`) == 0
	}, patience, 5*time.Millisecond)
	r.consistent()
	n, err := r.Redrive(t.Context(), deadletter.Command{Actor: "ada"})
	require.NoError(t, err)
	require.Equal(t, 30-r.count(`select count(*) from msg.dead_letter_changes c join msg.dead_letter_operations o on o.id = c.operation where o.actor = 'child'`), n)
	require.Equal(t, 30, r.count(`select count(*) from msg.outbox`))
	r.consistent()
}
