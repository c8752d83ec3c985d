package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// wire stands between a pool and its server, and can be cut.
type wire struct {
	l    net.Listener
	to   string
	down atomic.Bool
	lose atomic.Bool // the next answer to a COMMIT, with its connection
	mu   sync.Mutex
	live map[net.Conn]bool
	wg   sync.WaitGroup
}

// throughWire returns a rig whose database can be cut off.
func throughWire(t *testing.T) (*rig, *wire) {
	t.Parallel()
	raw := pgtest.URL(t, schema)
	u, err := url.Parse(raw)
	require.NoError(t, err)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{l: l, to: u.Host, live: map[net.Conn]bool{}}
	w.wg.Go(w.serve)
	t.Cleanup(func() {
		_ = l.Close()
		w.cut()
		w.wg.Wait()
	})
	u.Host = l.Addr().String()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: u.String(), MaxConns: 10})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	direct, err := postgres.Open(t.Context(), postgres.Config{URL: raw, MaxConns: 4})
	require.NoError(t, err)
	t.Cleanup(direct.Close)
	r := newRig(t, kafkatest.Start(t), direct) // what the test asks does not go through the wire
	r.db = outbox.NewDB(pool, postgres.NewDoorbell(pool, r.log))
	return r, w
}

func (w *wire) serve() {
	for {
		in, err := w.l.Accept()
		if err != nil {
			return
		}
		if w.down.Load() {
			_ = in.Close()
			continue
		}
		out, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", w.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		w.mu.Lock()
		w.live[in], w.live[out] = true, true
		w.mu.Unlock()
		pipe := func(to, from net.Conn) {
			_, _ = io.Copy(to, from)
			_, _ = to.Close(), from.Close()
			w.mu.Lock()
			delete(w.live, in)
			delete(w.live, out)
			w.mu.Unlock()
		}
		w.wg.Go(func() { pipe(out, in) })
		w.wg.Go(func() { pipe(answers{in, w}, out) })
	}
}

// answers go to the client, unless one is to be lost.
type answers struct {
	net.Conn
	w *wire
}

func (a answers) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("COMMIT\x00")) && a.w.lose.CompareAndSwap(true, false) {
		return 0, io.ErrClosedPipe
	}
	return a.Conn.Write(b)
}

// cut breaks every connection and refuses new ones until mend.
func (w *wire) cut() {
	w.down.Store(true)
	w.snap()
}

// snap breaks every connection; new ones are served.
func (w *wire) snap() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.live {
		_ = c.Close()
	}
}

func (w *wire) mend() { w.down.Store(false) }

// An outage of the consumer's own database costs time: no attempt is counted, so
// nothing is retried or dead.
func TestDatabaseOutageFillsNoDLQ(t *testing.T) {
	r, w := throughWire(t)
	r.relay()
	id, slow := uuid.New(), make(chan struct{}, 100)
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		if p.Reason == "5" {
			slow <- struct{}{}
			if _, err := tx.Exec(ctx, `select pg_sleep(0.2)`); err != nil {
				return fmt.Errorf("sleep: %w", err)
			}
		}
		return apply(ctx, tx, e, p)
	}))
	for _, n := range names(6, "") {
		r.produce(order(id, n))
	}
	<-slow // in the middle of a handler
	w.cut()
	for _, n := range names(6, "later ") {
		r.produce(order(id, n))
	}
	r.eventually("consuming stops", func() bool { return r.metric("tiffin_consumer_database_down", nil) == 1 })
	w.mend()
	r.eventually("all have their effect", func() bool { return len(r.notes(id)) == 12 })
	require.Equal(t, append(names(6, ""), names(6, "later ")...), r.notes(id))
	require.Zero(t, r.count(`select count(*) from msg.dead_letters`))
	require.Zero(t, r.count(`select count(*) from msg.parked_keys`))
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
	require.Zero(t, r.metric("tiffin_consumer_database_down", nil))
}

// Connections that break at any moment, also while COMMIT is under way, neither
// lose nor double an effect.
func TestConnectionsThatBreakAtAnyMoment(t *testing.T) {
	r, w := throughWire(t)
	r.relay()
	r.cc.BatchRecords = 20
	const orders, events = 20, 25
	var all []event.Event
	ids := make([]uuid.UUID, orders)
	for i := range ids {
		ids[i] = uuid.New()
	}
	for n := range events {
		for _, id := range ids {
			all = append(all, order(id, fmt.Sprint(n)))
		}
	}
	r.produce(all...)
	var cuts, broken atomic.Int64
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		switch n := cuts.Add(1); {
		case n%10 == 0 && n <= 100:
			w.snap()
		case n%10 == 5 && n <= 100: // later, maybe at COMMIT
			time.AfterFunc(rand.N(4*time.Millisecond), w.snap)
		}
		if _, err := tx.Exec(ctx, `select 1`); err != nil {
			broken.Add(1)
			return fmt.Errorf("in the middle of a handler: %w", err)
		}
		return apply(ctx, tx, e, p)
	}))
	r.eventually("all have their effect", func() bool { return r.count(`select count(*) from effects`) >= orders*events })
	require.Positive(t, broken.Load())
	for _, id := range ids {
		require.Equal(t, names(events, ""), r.notes(id))
	}
	require.Zero(t, r.count(`select count(*) from msg.dead_letters`))
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

// The connection breaks while COMMIT is under way: the server has done it and
// the answer is lost, or it never heard of it. Both end in one effect.
func TestCommitInDoubt(t *testing.T) {
	for _, done := range []bool{true, false} {
		t.Run(fmt.Sprintf("committed=%t", done), func(t *testing.T) {
			r, w := throughWire(t)
			r.relay()
			require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, event.TypeOrderStatusChanged))
			ids, all := some(3, 5)
			r.produce(all...)
			c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, r.reg, kafka.On(number, topic,
				func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
					tx.Emit(ctx, event.New("test", event.OrderStatusChanged{OrderID: p.OrderID, To: p.Reason}))
					return apply(ctx, tx, e, p)
				}))
			require.NoError(t, err)
			var once sync.Once
			c.At(func(point, _ string) {
				if point != "before commit" {
					return
				}
				once.Do(func() {
					if done {
						w.lose.Store(true)
					} else {
						w.snap()
					}
				})
			})
			r.background(c.Run)
			r.once(ids, 5)
			require.False(t, w.lose.Load(), "an answer was lost")
			require.Zero(t, r.size(kafka.RetryTopic(group, 1)), "it is no failed attempt")
		})
	}
}

// The database server is killed again and again while events come in.
func TestDatabaseServerKilled(t *testing.T) {
	t.Parallel()
	server := pgtest.Own(t, schema)
	r := newRig(t, kafkatest.Start(t), server.Pool)
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, event.TypeOrderStatusChanged))
	r.relay()
	r.cc.BatchRecords = 5
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		tx.Emit(ctx, event.New("test", event.OrderStatusChanged{OrderID: p.OrderID, To: p.Reason}))
		return apply(ctx, tx, e, p)
	}))
	ids, all := some(5, 40)
	for i := range 4 {
		r.produce(all[i*50 : (i+1)*50]...)
		r.eventually("it is in the middle", func() bool { return r.effects() > i*50 })
		server.Crash()
	}
	r.eventually("all have their effect", func() bool { return r.effects() == 200 })
	r.once(ids, 40)
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

// effects counts them, -1 while the database is away.
func (r *rig) effects() int {
	n := -1
	_ = r.pool.QueryRow(context.Background(), `select count(*) from effects`).Scan(&n)
	return n
}

// Nobody reaches the broker for a while: what comes in meanwhile waits in the
// outbox, and what was handled is handled once.
func TestBrokerOutage(t *testing.T) {
	r := setup(t)
	require.NoError(t, kafka.EnsureTopics(t.Context(), r.client, r.cfg, event.TypeOrderStatusChanged))
	r.consume(kafka.On(number, topic, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.OrderCancelled) error {
		tx.Emit(ctx, event.New("test", event.OrderStatusChanged{OrderID: p.OrderID, To: p.Reason}))
		return apply(ctx, tx, e, p)
	}))
	ids, all := some(5, 20)
	emit := func(events []event.Event) {
		for _, e := range events {
			require.NoError(t, r.db.InTx(t.Context(), func(tx *outbox.Tx) error { tx.Emit(t.Context(), e); return nil }))
		}
	}
	emit(all[:50])
	r.eventually("it is in the middle", func() bool { return r.effects() > 10 })
	back := r.away()
	emit(all[50:])
	back()
	r.once(ids, 20)
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}

// away lets no request reach the broker, or kills it, until the returned
// function is called.
func (r *rig) away() (back func()) {
	if nodes := r.broker.Nodes(); nodes != nil {
		for i := range nodes.Addrs() {
			nodes.Kill(i)
		}
		return func() {
			for i := range nodes.Addrs() {
				require.NoError(r.t, nodes.Launch(i))
			}
		}
	}
	fake := r.broker.Fake()
	var here atomic.Bool
	fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		if here.Load() {
			return nil, nil, false
		}
		return nil, errors.New("broker is away"), true // ends the connection
	})
	return func() { here.Store(true) }
}
