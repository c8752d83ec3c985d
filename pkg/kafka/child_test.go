package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Consumers that are killed or frozen are processes of their own: the test
// binary again, told by the environment what to do.
const (
	envURL     = "KAFKA_TEST_CONSUMER_URL"
	envBrokers = "KAFKA_TEST_CONSUMER_BROKERS"
	envCrash   = "KAFKA_TEST_CONSUMER_CRASH" // "<signal>:<times>:<point>"
)

func TestMain(m *testing.M) {
	if os.Getenv(envURL) != "" {
		if err := childMain(); err != nil {
			fmt.Fprintln(os.Stderr, "child consumer:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(kafkatest.M{M: m})
}

func childMain() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := postgres.Open(ctx, postgres.Config{URL: os.Getenv(envURL), MaxConns: 6})
	if err != nil {
		return err
	}
	cfg := kafka.Config{Brokers: strings.Split(os.Getenv(envBrokers), ","), Replication: -1}
	at := crasher(pool, os.Getenv(envCrash))
	c, err := kafka.NewConsumer(cfg, settings(), outbox.NewDB(pool, nil), logger(), nil, childHandler(pool, at))
	if err != nil {
		return err
	}
	c.At(func(point, what string) { at(point + " of " + what) })
	return c.Run(ctx)
}

// crasher returns what is called at each point, and at the right one sends the
// signal to this very process: SIGKILL, or SIGSTOP after it has said so.
func crasher(pool *pgxpool.Pool, crash string) func(point string) {
	var sig, times int
	_, _ = fmt.Sscanf(crash, "%d:%d:", &sig, &times)
	var seen atomic.Int64
	return func(point string) {
		if !strings.HasSuffix(crash, ":"+point) || seen.Add(1) != int64(times) {
			return
		}
		goesOn := make(chan os.Signal, 1)
		if syscall.Signal(sig) == syscall.SIGSTOP {
			signal.Notify(goesOn, syscall.SIGCONT)
			_, _ = pool.Exec(context.Background(), `insert into ledger values ('stopped')`)
		}
		_ = syscall.Kill(os.Getpid(), syscall.Signal(sig))
		<-goesOn // the signal is on its way, and this thread would run on until it is there
	}
}

// childHandler calls the outside world, which is a ledger in the same database
// with connections of its own, and emits an event. Some events fail twice.
func childHandler(pool *pgxpool.Pool, at func(string)) kafka.Subscription {
	return kafka.OnPrepared(number, topic,
		func(ctx context.Context, _ event.Event, p event.OrderCancelled) (string, error) {
			at("before call")
			var calls int
			err := pool.QueryRow(ctx, `insert into ledger values ($1) returning (select count(*) from ledger where call = $1)`,
				p.OrderID.String()+p.Reason).Scan(&calls)
			at("after call")
			if err == nil && calls < 2 && strings.HasSuffix(p.Reason, "2") {
				err = errors.New("try again")
			}
			return p.Reason, err
		},
		func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled, note string) error {
			effect(tx, e, note)
			tx.Emit(ctx, event.New("test", event.OrderStatusChanged{OrderID: p.OrderID, To: note}))
			return nil
		})
}

// child starts a consumer process.
func (r *rig) child(crash string) *proc.Process {
	r.t.Helper()
	self, err := os.Executable()
	require.NoError(r.t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envURL+"="+r.pool.Config().ConnString(), envBrokers+"="+strings.Join(r.cfg.Brokers, ","), envCrash+"="+crash)
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	p, err := proc.Start(cmd, syscall.SIGKILL)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { p.Stop(syscall.SIGKILL, waitFor) })
	return p
}

// evict removes all members from the group, as the broker does when it has not
// heard of them for a session.
func (r *rig) evict() {
	r.t.Helper()
	described, err := r.broker.Admin.DescribeGroups(r.t.Context(), group)
	require.NoError(r.t, err)
	for _, m := range described[group].Members {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = group
		member := kmsg.NewLeaveGroupRequestMember()
		member.MemberID = m.MemberID
		req.Members = append(req.Members, member)
		_, err := req.RequestWith(r.t.Context(), r.client)
		require.NoError(r.t, err)
	}
}

// some returns numbered events for some orders, in the order of their numbers.
func some(orders, events int) (ids []uuid.UUID, all []event.Event) {
	for range orders {
		ids = append(ids, uuid.New())
	}
	for _, n := range names(events, "") {
		for _, id := range ids {
			all = append(all, order(id, n))
		}
	}
	return ids, all
}

// once is the oracle: every event has had its effect and was told of once, in
// the order of its key, and nothing is left.
func (r *rig) once(ids []uuid.UUID, events int) {
	r.t.Helper()
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) >= len(ids)*events })
	r.eventually("nothing waits", func() bool {
		return r.count(`select count(*) from msg.parked_keys`)+r.count(`select count(*) from msg.parked_events`) == 0
	})
	r.eventually("offsets are committed", func() bool { return r.committed(topic, kafka.RetryTopic(group, 1)) })
	for _, id := range ids {
		require.Equal(r.t, names(events, ""), r.notes(id))
	}
	require.Equal(r.t, len(ids)*events, r.count(`select count(*) from msg.outbox where topic = $1`, event.TypeOrderStatusChanged))
	require.Zero(r.t, r.count(`select count(*) from msg.dead_letters`))
}

// A consumer killed at any point leaves nothing undone and does nothing twice
// but what Prepare says it may.
func TestAKilledConsumerLosesAndDoublesNothing(t *testing.T) {
	for _, point := range []string{
		"1:before commit of batch", "2:before commit of batch",
		"1:after commit of batch", "3:after commit of batch",
		"1:before commit of failure", "1:after commit of failure", // a retry is recorded and its key parked
		"1:before commit of drain", "1:after commit of drain", "3:after commit of drain",
		"1:before call", "1:after call", "7:after call",
	} {
		t.Run(point, func(t *testing.T) {
			r := setup(t)
			require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, event.TypeOrderStatusChanged))
			ids, all := some(4, 6)
			r.produce(all...)
			killed := r.child("9:" + point)
			select {
			case <-killed.Done():
				require.ErrorContains(t, killed.Err(), "killed")
			case <-time.After(waitFor):
				require.Fail(t, "it did not come to the point")
			}
			r.evict()
			// Long before its time: the lease of a drain that stopped is over.
			r.leasesEnd()
			r.child("")
			r.once(ids, 6)
			// Once each, once more those that failed, and once more what was under way.
			require.LessOrEqual(t, r.count(`select count(*) from ledger`), 4*6+4+4*6)
		})
	}
}

// leasesEnd leaves out keys that a transaction of a frozen process may hold.
func (r *rig) leasesEnd() {
	r.t.Helper()
	_, err := r.pool.Exec(r.t.Context(), `update msg.parked_keys set lease_until = '-infinity'
		where ctid = any(array(select ctid from msg.parked_keys for update skip locked))`)
	require.NoError(r.t, err)
}

// A process that froze, lost its partitions and wakes up goes on with what it
// had; whoever commits an event first has handled it.
func TestAFrozenConsumerIsReplaced(t *testing.T) {
	for _, point := range []string{"1:before commit of batch", "1:after commit of batch", "1:before call", "1:after call", "1:after commit of drain"} {
		t.Run(point, func(t *testing.T) {
			r := setup(t)
			require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, event.TypeOrderStatusChanged))
			ids, all := some(4, 6)
			r.produce(all...)
			frozen := r.child(fmt.Sprintf("%d:%s", syscall.SIGSTOP, point))
			r.eventually("it froze", func() bool { return r.count(`select count(*) from ledger where call = 'stopped'`) == 1 })
			r.evict()
			r.child("")
			if strings.Contains(point, "before commit") {
				r.eventually("another waits for what it holds", func() bool {
					return r.count(`select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`) > 0
				})
			} else {
				r.leasesEnd()
				r.eventually("another goes on", func() bool { return r.count(`select count(*) from effects`) >= 4 })
			}
			frozen.Signal(syscall.SIGCONT)
			r.once(ids, 6)
		})
	}
}
