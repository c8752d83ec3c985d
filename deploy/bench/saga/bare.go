//go:build unix

package saga

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// servers are the parts that an order's commits go to, in the order of databases.
var servers = []string{"postgres-order", "postgres-payment", "postgres-notification"}

// databases are pools on them.
type databases [3]*pgxpool.Pool

const (
	inOrder = iota
	inPayment
	inNotification
)

// writers is how many orders' commits are on their way at once in a bare run:
// as many as the connections allow that the idle services leave.
const writers = 16

func openDatabases(ctx context.Context, o runner.Options) (databases, error) {
	var d databases
	for i, service := range []string{"order-service", "payment-service", "notification-service"} {
		cfg, err := pgxpool.ParseConfig(o.DatabaseURL(service))
		if err != nil {
			return d, err
		}
		cfg.MaxConns = writers
		if d[i], err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (d databases) close() {
	for _, pool := range d {
		if pool != nil {
			pool.Close()
		}
	}
}

// upkeep does what the servers would sooner or later do in the middle of a run.
func (d databases) upkeep(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, pool := range d {
		g.Go(func() error {
			for _, sql := range []string{`vacuum analyze`, `checkpoint`} {
				if _, err := pool.Exec(gctx, sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// writes returns how many transactions of the server got an id, which those
// that write something do.
func writes(ctx context.Context, pool *pgxpool.Pool) (n int64, err error) {
	err = pool.QueryRow(ctx, `select pg_snapshot_xmax(pg_current_snapshot())::text::bigint`).Scan(&n)
	return n, err
}

// Tables of the same shape, with the same indexes, beside the services' own.
var shadows = [3]string{
	inOrder:        `create table bench.orders (like public.orders including all); create table bench.timeline (like public.timeline including all)`,
	inPayment:      `create table bench.payments (like public.payments including all); create table bench.intents (like simulator.intents including all); create table bench.charges (like simulator.charges including all); create table bench.calls (like simulator.calls including all)`,
	inNotification: `create table bench.notifications (like public.notifications including all); create table bench.deliveries (like public.deliveries including all)`,
}

const sharedShadows = `create table bench.outbox (like msg.outbox including all); create table bench.processed (like msg.processed_events including all)`

// Analyzed as the originals are, which LIKE does not copy.
const sampled = `select msg.sample(array(select oid::regclass from pg_class where relnamespace = 'bench'::regnamespace and relkind = 'r' and relname <> 'processed'), 10)`

// shadow makes the tables anew.
func (d databases) shadow(ctx context.Context) error {
	for i, pool := range d {
		for _, sql := range []string{`drop schema if exists bench cascade`, `create schema bench`, sharedShadows, shadows[i], sampled} {
			if _, err := pool.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", servers[i], err)
			}
		}
	}
	return nil
}

// step is one of the commits that an order cannot do without.
type step struct {
	in     int
	events bool     // what an event triggers; the events of several orders may share a commit
	sqls   []string // each with the order's id as $1
	emits  bool
}

// Every row that a paid order leaves behind, as copies of the rows of real
// orders, committed where the saga has to commit: before a call to the outside
// and at the end of each handler.
var steps = []step{
	{in: inOrder, emits: true, sqls: []string{ // POST /orders
		`insert into bench.orders select * from orders where id = $1`,
		`insert into bench.timeline select * from timeline where order_id = $1 and kind = 'order.created'`,
	}},
	{in: inPayment, sqls: []string{`insert into bench.payments select * from payments where order_id = $1`}},
	{in: inPayment, sqls: []string{ // the provider makes an intent
		`insert into bench.intents select * from simulator.intents where key = $1::uuid::text`,
		`insert into bench.calls (operation, ref, key, result) values ('create', $1::uuid::text, $1::uuid::text, 'created')`,
	}},
	{in: inPayment, sqls: []string{`update bench.payments set updated_at = now() where order_id = $1`}},
	{in: inPayment, sqls: []string{ // and charges
		`update bench.intents set confirms = 1 where key = $1::uuid::text`,
		`insert into bench.charges (ref, key, amount, currency) values ($1::uuid::text, $1::uuid::text, 1780, 'EUR')`,
		`insert into bench.calls (operation, ref, key, result) values ('confirm', $1::uuid::text, $1::uuid::text, 'charged')`,
	}},
	{in: inPayment, events: true, emits: true, sqls: []string{`update bench.payments set updated_at = now() where order_id = $1`}},
	{in: inOrder, events: true, emits: true, sqls: []string{
		`update bench.orders set updated_at = now() where id = $1`,
		`insert into bench.timeline select * from timeline where order_id = $1 and kind <> 'order.created'`,
	}},
	notice("payment_completed"), notice("order_confirmed"),
	// Nobody waits for these.
	notice("order_placed"), delivery("order_placed"), delivery("payment_completed"), delivery("order_confirmed"),
}

// awaited is how many of the steps have to be over before the customer can know
// that an order is paid and confirmed.
const awaited = 9

func notice(kind string) step {
	return step{in: inNotification, events: true, emits: true, sqls: []string{
		`insert into bench.notifications select * from notifications where order_id = $1 and kind = '` + kind + `'`,
	}}
}

func delivery(kind string) step {
	return step{in: inNotification, events: true, sqls: []string{
		`insert into bench.deliveries select id, user_id, 'delivered', 'log', now()
			from notifications where order_id = $1 and kind = '` + kind + `'`,
	}}
}

const (
	sqlEmit      = `insert into bench.outbox (event_id, topic, key, value, headers) values ($1, 'bench', $2, $3, $4)`
	sqlProcessed = `insert into bench.processed (consumer, event_id, attempt) values (1, $1, 0)`
)

var (
	value   = make([]byte, 350) // the size of an order's events
	headers = make([]byte, 220)
)

// bare repeats the commits of the last orders and nothing else: no HTTP, no
// broker, no events. The events of so many orders share a commit.
func (b *bench) bare(ctx context.Context, together int) (measure.Result, error) {
	if err := b.db.shadow(ctx); err != nil {
		return nil, err
	}
	before, err := b.bareUse(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var next atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	for range writers {
		g.Go(func() error {
			for {
				to := int(next.Add(int64(together)))
				from := to - together
				if from >= len(b.last) {
					return nil
				}
				if err := b.repeat(gctx, b.last[from:min(to, len(b.last))], steps); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	took, n := time.Since(began), float64(len(b.last))
	after, err := b.bareUse(ctx)
	if err != nil {
		return nil, err
	}
	return measure.Result{
		"orders/s": n / took.Seconds(),
		"CPU ms":   measure.Millis(after.allCPU()-before.allCPU()) / n,
		"commits":  float64(after.allCommits()-before.allCommits()) / n,
	}, nil
}

// repeat commits some steps of some orders.
func (b *bench) repeat(ctx context.Context, orders []string, steps []step) error {
	for _, s := range steps {
		if s.events {
			if err := b.commit(ctx, s, orders); err != nil {
				return err
			}
			continue
		}
		for _, order := range orders {
			if err := b.commit(ctx, s, []string{order}); err != nil {
				return err
			}
		}
	}
	return nil
}

// commit sends a step in one round trip, which is one transaction.
func (b *bench) commit(ctx context.Context, s step, orders []string) error {
	var batch pgx.Batch
	for _, order := range orders {
		if s.events {
			batch.Queue(sqlProcessed, uuid.Must(uuid.NewV7()))
		}
		for _, sql := range s.sqls {
			batch.Queue(sql, order)
		}
		if s.emits {
			batch.Queue(sqlEmit, uuid.Must(uuid.NewV7()), []byte(order), value, headers)
		}
	}
	return b.db[s.in].SendBatch(ctx, &batch).Close()
}

// bareUse is what the three servers and this program have used.
func (b *bench) bareUse(ctx context.Context) (u use, err error) {
	u = use{cpu: map[string]time.Duration{}, commits: map[string]int64{}}
	for i, part := range servers {
		cpu, err := measure.FamilyCPU(b.p.Pid(part))
		if err != nil {
			return u, err
		}
		n, err := writes(ctx, b.db[i])
		if err != nil {
			return u, err
		}
		u.cpu[part] = cpu
		u.commits[part] = n
	}
	u.cpu[itself], err = measure.CPU(os.Getpid())
	return u, err
}
