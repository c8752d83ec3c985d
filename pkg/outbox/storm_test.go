package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// storm is many writers against two relay processes, with or without trouble.
//
// A writer takes its transaction id first and its sequence numbers later, keeps
// some transactions open for long, rolls back one in ten, and uses
// subtransactions that are rolled back: everything that makes sequence numbers
// appear late, out of order or never. Each key counts its committed events in a
// table, so what must be published is known exactly, also when the answer to a
// COMMIT was lost.
type storm struct {
	seed    uint64
	lasts   time.Duration // at least, and
	events  int64         // until so many are committed
	variant string
	writers int

	slow     time.Duration // some keep their transactions open for up to that long:
	slowpoke int           // so many of the writers
	pairs    int           // writers with two connections, see pair

	deaths   int  // of leaders just after they stored a cursor, at least; and nothing else
	kills    bool // relay processes die and freeze, connections break
	broker   bool // the broker is away or answers with errors
	restarts bool // the database server is killed

	committed *atomic.Int64 // events, as far as the writers know
}

// TestStorm is short by default. The long form, of so many events
// for each kind of trouble:
//
//	OUTBOX_STORM=100000 OUTBOX_STORM_SEED=1 go test -run 'TestStorm$' -v -timeout 1h ./outbox
func TestStorm(t *testing.T) {
	t.Parallel()
	slow, events := 150*time.Millisecond, int64(500)
	if s := os.Getenv("OUTBOX_STORM"); s != "" {
		var err error
		events, err = strconv.ParseInt(s, 10, 64)
		require.NoError(t, err)
		slow = 1500 * time.Millisecond
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("OUTBOX_STORM_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	calm := storm{seed: seed, lasts: 1500 * time.Millisecond, events: events, variant: "ours", writers: 24, slow: slow, slowpoke: 4, pairs: 2}
	rough := calm
	rough.kills, rough.broker = true, true
	restarts := rough
	restarts.restarts = true
	for name, s := range map[string]storm{"calm": calm, "rough": rough, "restarts": restarts} {
		t.Run(name, func(t *testing.T) {
			v, events := s.run(t, kafkatest.Start(t))
			t.Logf("seed %d: %d events, %+v", seed, events, v)
			require.GreaterOrEqual(t, int64(events), s.events)
			require.Zero(t, v.lost, "seed %d", seed)
			require.Zero(t, v.late, "seed %d", seed)
			if name == "calm" {
				require.Zero(t, v.repeated, "seed %d", seed)
			}
		})
	}
}

// The same oracle finds each of the usual shortcuts.
func TestStormFindsBrokenRelays(t *testing.T) {
	t.Parallel()
	for variant, s := range map[string]storm{
		"naive":         {writers: 24, slow: 100 * time.Millisecond, slowpoke: 4, events: 200},
		"bound by xmax": {slow: 100 * time.Millisecond, pairs: 2},
		"bound later":   {writers: 24, slow: 500 * time.Millisecond, slowpoke: 12, deaths: 5},
	} {
		t.Run(variant, func(t *testing.T) {
			s.variant, s.lasts = variant, 2*time.Second
			lost, tries := 0, 0
			for ; tries < 20 && lost == 0; tries++ {
				s.seed = uint64(tries)
				v, _ := s.run(t, kafkatest.StartFake(t))
				lost = v.lost
			}
			t.Logf("%d lost in storm number %d", lost, tries)
			require.Positive(t, lost)
		})
	}
}

const stormKeys = 60

func (s storm) run(t *testing.T, broker *kafkatest.Broker) (verdict, int) {
	t.Helper()
	server := pgtest.Own(t, nil)
	pool := server.Pool
	w := newWorldIn(t, pool, broker)
	_, err := pool.Exec(t.Context(), countersTable)
	require.NoError(t, err)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var committed atomic.Int64
	s.committed = &committed
	var g sync.WaitGroup
	for i := range s.writers {
		g.Go(func() { s.write(ctx, w, i < s.slowpoke, rand.New(rand.NewPCG(s.seed, uint64(i)))) })
	}
	for i := range s.pairs {
		g.Go(func() { s.pair(ctx, w, i, rand.New(rand.NewPCG(s.seed, uint64(1000+i)))) })
	}
	rng := rand.New(rand.NewPCG(s.seed, 1_000_000))
	relays := []*proc.Process{s.relay(w, rng), s.relay(w, rng)}
	require.Eventually(t, func() bool { return w.epoch() > 0 }, patience, time.Millisecond, "one leads: the time counts from here")
	for began := time.Now(); time.Since(began) < s.lasts || committed.Load() < s.events || s.deaths > 0 && w.epoch() <= s.deaths; {
		s.trouble(ctx, w, server, relays, rng)
	}
	stop()
	g.Wait()
	if !s.kills && s.deaths == 0 {
		w.drained() // the kills below may repeat what is under way
	}
	for i := range relays {
		relays[i].Signal(syscall.SIGCONT)
		relays[i].Stop(syscall.SIGKILL, patience)
		relays[i] = w.child(s.variant, time.Second, "")
	}
	pool.Reset() // of connections that a restart broke
	w.drained()

	want := map[string]int{}
	events := 0
	rows, err := pool.Query(t.Context(), `select key, n from counters`)
	require.NoError(t, err)
	var key string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&key, &n}, func() error { want[key] = n; events += n; return nil })
	require.NoError(t, err)
	return judge(w.published(), want), events
}

// relay starts a relay process that may die at a bad point.
func (s storm) relay(w *world, rng *rand.Rand) *proc.Process {
	lease, crash := time.Minute, "" // nobody is to lose it for want of a processor
	switch {
	case s.deaths > 0:
		crash = fmt.Sprintf("%d:after cursor", 1+rng.IntN(5))
	case s.kills:
		lease = time.Second
		if rng.IntN(2) == 0 {
			crash = fmt.Sprintf("%d:%s", 1+rng.IntN(40), []string{"before produce", "before cursor", "after cursor"}[rng.IntN(3)])
		}
	}
	return w.child(s.variant, lease, crash)
}

func (s storm) trouble(ctx context.Context, w *world, server *pgtest.Server, relays []*proc.Process, rng *rand.Rand) {
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	wait(time.Duration(50+rng.IntN(150)) * time.Millisecond)
	for i, p := range relays { // dead ones come back
		select {
		case <-p.Done():
			relays[i] = s.relay(w, rng)
		default:
		}
	}
	i := rng.IntN(len(relays))
	switch dice := rng.IntN(12); {
	case dice == 0 && s.kills:
		relays[i].Stop(syscall.SIGKILL, patience)
	case dice == 1 && s.kills:
		relays[i].Stop(syscall.SIGTERM, patience)
	case dice <= 3 && s.kills:
		relays[i].Signal(syscall.SIGSTOP)
		wait(time.Duration(rng.IntN(1600)) * time.Millisecond)
		relays[i].Signal(syscall.SIGCONT)
	case dice == 4 && s.kills:
		_, _ = w.pool.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'outbox-relay'`)
	case dice == 5 && s.kills:
		_, _ = w.pool.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'writer' and random() < 0.3`)
	case dice == 6 && s.broker && kafkatest.Real():
		nodes := w.broker.Nodes()
		node := rng.IntN(len(nodes.Addrs()))
		nodes.Kill(node)
		require.NoError(w.t, nodes.Restart(context.WithoutCancel(ctx), node))
	case dice <= 7 && s.broker && !kafkatest.Real():
		w.broker.Fake().Fault(kfake.Fault{
			Keys: []kmsg.Key{kmsg.Produce}, Count: 1 + rng.IntN(5),
			Err: []*kerr.Error{kerr.RequestTimedOut, kerr.NotLeaderForPartition, kerr.NotEnoughReplicasAfterAppend}[rng.IntN(3)],
		})
	case dice == 8 && s.broker && !kafkatest.Real():
		accept := w.refuse()
		wait(time.Duration(50+rng.IntN(300)) * time.Millisecond)
		accept()
	case dice == 9 && s.restarts:
		server.Crash()
	}
}

// write runs transactions until ctx ends. Errors are part of the game: what
// counts is what the database holds in the end.
func (s storm) write(ctx context.Context, w *world, slow bool, rng *rand.Rand) {
	cc := w.pool.Config().ConnConfig
	cc.RuntimeParams["application_name"] = "writer"
	for ctx.Err() == nil {
		conn, err := pgx.ConnectConfig(ctx, cc)
		if err != nil {
			continue
		}
		for ctx.Err() == nil && err == nil {
			// Not ctx: the end of the storm lets transactions finish.
			err = s.transact(context.WithoutCancel(ctx), conn, slow, rng)
		}
		_ = conn.Close(context.WithoutCancel(ctx))
	}
}

const countersTable = `create table counters (key text primary key, n int not null default 0) with (fillfactor = 50)`

const count1 = `insert into counters as c (key, n) values ($1, 1) on conflict (key) do update set n = c.n + 1 returning n`

var errOdd = errors.New("rolled back on purpose")

func (s storm) transact(ctx context.Context, conn *pgx.Conn, slow bool, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	events := 1 + rng.IntN(3)
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		key := "key-" + strconv.Itoa(1+rng.IntN(stormKeys))
		for range events {
			var n int
			if err := tx.QueryRow(ctx, count1, key).Scan(&n); err != nil {
				return err
			}
			if !slow && rng.IntN(4) == 0 { // others take their xid later and their seq earlier
				if _, err := tx.Exec(ctx, `select pg_sleep($1)`, rng.Float64()/200); err != nil {
					return err
				}
			}
			if rng.IntN(10) == 0 { // a subtransaction whose seq is never seen
				err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
					if err := put(ctx, tx, key, n); err != nil {
						return err
					}
					return errOdd
				})
				if !errors.Is(err, errOdd) {
					return err
				}
			}
			if err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return put(ctx, tx, key, n) }); err != nil {
				return err
			}
		}
		if slow {
			if _, err := tx.Exec(ctx, `select pg_sleep($1)`, rng.Float64()*s.slow.Seconds()); err != nil {
				return err
			}
		}
		if rng.IntN(10) == 0 {
			return errOdd
		}
		return nil
	})
	if errors.Is(err, errOdd) {
		return nil
	}
	if err == nil {
		s.committed.Add(int64(events))
	}
	return err
}

// pair runs two transactions at a time: the second takes its id later and its
// seq earlier than the first, and ends long after it.
func (s storm) pair(ctx context.Context, w *world, i int, rng *rand.Rand) {
	for ctx.Err() == nil {
		_ = func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			var txs [2]pgx.Tx
			var key [2]string
			var n [2]int
			for j := range txs {
				conn, err := pgx.ConnectConfig(ctx, w.pool.Config().ConnConfig)
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close(ctx) }()
				if txs[j], err = conn.Begin(ctx); err != nil {
					return err
				}
				key[j] = fmt.Sprintf("pair-%d-%d", i, j)
				if err := txs[j].QueryRow(ctx, count1, key[j]).Scan(&n[j]); err != nil {
					return err
				}
			}
			for _, j := range []int{1, 0} {
				if err := put(ctx, txs[j], key[j], n[j]); err != nil {
					return err
				}
			}
			if err := txs[0].Commit(ctx); err != nil {
				return err
			}
			if _, err := txs[1].Exec(ctx, `select pg_sleep($1)`, rng.Float64()*s.slow.Seconds()); err != nil {
				return err
			}
			return txs[1].Commit(ctx)
		}()
	}
}

func put(ctx context.Context, tx pgx.Tx, key string, n int) error {
	e := newEvent(key)
	_, err := tx.Exec(ctx, insertRow, e.ID, e.Type, []byte(key), []byte(strconv.Itoa(n)), outbox.EncodeEvent(e))
	return err
}
