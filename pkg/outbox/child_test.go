package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Relays that are killed or stopped are processes of their own: the test binary
// again, told by the environment what to do.
const (
	envURL     = "OUTBOX_TEST_RELAY_URL"
	envBrokers = "OUTBOX_TEST_RELAY_BROKERS"
	envVariant = "OUTBOX_TEST_RELAY_VARIANT"
	envLease   = "OUTBOX_TEST_RELAY_LEASE"
	envCrash   = "OUTBOX_TEST_RELAY_CRASH" // "<times>:<point>"
	envWriter  = "OUTBOX_TEST_WRITER"      // "before" or "after" its third COMMIT: where a writer dies
)

var variants = map[string]func(*outbox.Relay){
	"ours": outbox.Unbroken, "naive": outbox.Naive, "bound by xmax": outbox.BoundByXmax, "bound later": outbox.BoundLater,
}

func TestMain(m *testing.M) {
	if os.Getenv(envURL) != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(kafkatest.M{M: m})
}

func childMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	fail := func(err error) int {
		log.Error("child relay", "error", err)
		return 1
	}
	pool, err := pgxpool.New(ctx, os.Getenv(envURL))
	if err != nil {
		return fail(err)
	}
	if dies := os.Getenv(envWriter); dies != "" {
		return fail(writeAndDie(ctx, pool, dies))
	}
	client, err := kgo.NewClient(clientOpts(strings.Split(os.Getenv(envBrokers), ","))...)
	if err != nil {
		return fail(err)
	}
	lease, err := time.ParseDuration(os.Getenv(envLease))
	if err != nil {
		return fail(err)
	}
	relay := outbox.NewRelay(outbox.NewDB(pool, nil), client, outbox.RelayConfig{
		Lease: lease, Batch: 100, Drain: time.Second,
		PollMin: 100 * time.Microsecond, PollMax: time.Millisecond, // nobody rings here, and it shall see every state
	}, log, nil)
	variants[os.Getenv(envVariant)](relay)
	if crash := os.Getenv(envCrash); crash != "" {
		var times int64
		var point string
		if _, err := fmt.Sscanf(strings.ReplaceAll(crash, " ", "_"), "%d:%s", &times, &point); err != nil {
			return fail(err)
		}
		var seen atomic.Int64
		relay.At(func(at string) {
			if strings.ReplaceAll(at, " ", "_") == point && seen.Add(1) == times {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // the signal is on its way
			}
		})
	}
	if err := relay.Run(ctx); err != nil {
		return fail(err)
	}
	return 0
}

// writeAndDie counts in a table what it emits, and is killed.
func writeAndDie(ctx context.Context, pool *pgxpool.Pool, dies string) error {
	db := outbox.NewDB(pool, nil)
	die := func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	for i := 1; ; i++ {
		err := db.InTx(ctx, func(tx *outbox.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, count1, "w").Scan(&n); err != nil {
				return err
			}
			e := newEvent("w")
			e.Data = []byte(strconv.Itoa(n))
			tx.Emit(ctx, e)
			if i == 3 && dies == "before" {
				die()
			}
			return nil
		})
		if err != nil {
			return err
		}
		if i == 3 {
			die()
		}
	}
}

func TestAKilledWriterEmitsWhatItCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.pool.Exec(t.Context(), countersTable)
	require.NoError(t, err)
	run(t, w.relay(outbox.RelayConfig{}).Run)
	want := 0
	for _, dies := range []string{"before", "after", "before"} {
		want += map[string]int{"before": 2, "after": 3}[dies]
		p := w.childWith(envWriter + "=" + dies)
		<-p.Done()
		require.ErrorContains(t, p.Err(), "killed")
		var n int
		require.NoError(t, w.pool.QueryRow(t.Context(), `select n from counters`).Scan(&n))
		require.Equal(t, want, n)
		w.reaches(int64(want)) // a row that was not committed drew no number
		require.Equal(t, verdict{}, judge(w.published(), each(want, "w")))
	}
	w.closes()
}

func clientOpts(brokers []string) []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(brokers...), kgo.ProducerLinger(0), kgo.MetadataMinAge(50 * time.Millisecond)}
}

// child starts a relay process. crash is empty or names a point to die at.
func (w *world) child(variant string, lease time.Duration, crash string) *proc.Process {
	w.t.Helper()
	return w.childWith(envVariant+"="+variant, envLease+"="+lease.String(), envCrash+"="+crash)
}

func (w *world) childWith(env ...string) *proc.Process {
	w.t.Helper()
	self, err := os.Executable()
	require.NoError(w.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), env...),
		envURL+"="+w.pool.Config().ConnString(), envBrokers+"="+strings.Join(w.broker.Brokers, ","))
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	p, err := proc.Start(cmd, syscall.SIGKILL)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		p.Signal(syscall.SIGCONT)
		p.Stop(syscall.SIGKILL, patience)
	})
	return p
}

func TestAKilledRelayLosesNothing(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"1:before produce", "2:before produce", "1:before cursor", "1:after cursor"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.series(100, "a", "b", "c")
			first := w.child("ours", time.Minute, point)
			<-first.Done()
			w.child("ours", time.Minute, "")
			w.drained() // long before the lease of the first ran out: its connection is gone
			want := each(100, "a", "b", "c")
			v := judge(w.published(), want)
			require.Zero(t, v.lost)
			require.Zero(t, v.late)
			require.LessOrEqual(t, v.repeated, 300, "at most what was in flight")
			require.Eventually(t, func() bool { return w.epoch() == 2 }, patience, time.Millisecond)
		})
	}
}

func TestAStoppedProcessIsReplacedAndFenced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.child("ours", time.Second, "")
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	w.series(50, "a")
	first.Signal(syscall.SIGSTOP)
	w.series(50, "b")
	w.child("ours", time.Second, "")
	w.drained()
	first.Signal(syscall.SIGCONT)
	w.series(50, "c")
	w.drained()
	require.Equal(t, 2, w.epoch(), "the first does not come back while the second lives")
	v := judge(w.published(), each(50, "a", "b", "c"))
	require.Zero(t, v.lost)
	require.Zero(t, v.late)
}
