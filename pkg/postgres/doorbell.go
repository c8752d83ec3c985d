package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
)

const (
	channel = "tiffin_doorbell"
	// everyone as a key means: wake all subscribers.
	everyone = "*"
	// coalesce is the shortest time between two notifications of one process:
	// a NOTIFY is a transaction, and commits take turns at the server's queue.
	coalesce = 5 * time.Millisecond
	// recount is the time between looks whether others still listen.
	recount = 10 * time.Second
	// hello as a key means: somebody else listens from now on.
	hello = "?"
	// listenerName is the application name of the connections that listen.
	listenerName = "tiffin-doorbell"
	// maxPayload stays under PostgreSQL's limit of 8000 bytes per notification.
	maxPayload = 7500
)

// Doorbell carries wake-ups: within the process at once, to other replicas by
// LISTEN/NOTIFY. It is a hint, never the truth: a ring can be lost with a
// connection and can be spurious, so who waits for one polls as well.
//
// While no other replica listens, none is told: each says hello when it begins,
// and whether it is still there is looked up now and then.
//
// Its connections are its own. NOTIFY inside a business transaction would make
// every commit queue for one lock in the server.
type Doorbell struct {
	cc  *pgx.ConnConfig
	log *slog.Logger
	id  string // tells this process's own notifications from others'

	mu       sync.Mutex
	subs     map[string]map[chan struct{}]struct{}
	pending  map[string]struct{}
	bytes    int
	due      chan struct{}
	listener uint32 // the server's process id of the connection that listens, 0 without
	hellos   int    // heard
	alone    bool   // nobody else listens; a hello would be heard
}

// NewDoorbell returns a doorbell for pool's database. Until Run it works
// within the process only.
func NewDoorbell(pool *pgxpool.Pool, log *slog.Logger) *Doorbell {
	cc := pool.Config().ConnConfig
	// A lost wake-up costs one poll interval; a flushed commit costs more.
	cc.RuntimeParams["synchronous_commit"] = "off"
	return &Doorbell{
		cc: cc, log: log, id: uuid.NewString(),
		subs:    map[string]map[chan struct{}]struct{}{},
		pending: map[string]struct{}{},
		due:     make(chan struct{}, 1),
	}
}

// Ring wakes the subscribers of keys, here at once and in other replicas soon.
// It never blocks. Call it after COMMIT: before, there is nothing to see yet.
func (d *Doorbell) Ring(keys ...string) {
	if len(keys) == 0 {
		return
	}
	d.mu.Lock()
	for _, key := range keys {
		d.wake(key)
		if d.alone {
			continue
		}
		if _, known := d.pending[key]; known {
			continue
		}
		// While nobody can be told (no connection), the set must not grow:
		// one "wake all" says as much as any number of keys.
		if d.bytes += len(key) + 1; d.bytes > maxPayload-len(d.id) || strings.ContainsRune(key, '\n') {
			clear(d.pending)
			key, d.bytes = everyone, 0
		}
		if _, all := d.pending[everyone]; !all {
			d.pending[key] = struct{}{}
		}
	}
	told := len(d.pending) > 0
	d.mu.Unlock()
	if told {
		select {
		case d.due <- struct{}{}:
		default:
		}
	}
}

// Subscribe returns a channel that receives after each Ring of key, several
// rings as one. It holds one wake-up, so a ring between two reads is kept.
// Call stop when done; the channel is not closed.
func (d *Doorbell) Subscribe(key string) (wake <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.subs[key] == nil {
		d.subs[key] = map[chan struct{}]struct{}{}
	}
	d.subs[key][ch] = struct{}{}
	return ch, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.subs[key], ch)
		if len(d.subs[key]) == 0 {
			delete(d.subs, key)
		}
	}
}

// wake is called with mu held.
func (d *Doorbell) wake(key string) {
	for ch := range d.subs[key] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (d *Doorbell) wakeAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range d.subs {
		d.wake(key)
	}
}

// Run sends and receives notifications until ctx ends, reconnecting for as
// long as it takes. It returns nil when ctx ended.
func (d *Doorbell) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.keep(ctx, "listen", d.listen) })
	g.Go(func() error { return d.keep(ctx, "notify", d.notify) })
	return g.Wait()
}

// keep runs work on a connection, and on a new one when it breaks.
func (d *Doorbell) keep(ctx context.Context, name string, work func(context.Context, *pgx.Conn) error) error {
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		cc := d.cc.Copy()
		if name == "listen" {
			cc.RuntimeParams["application_name"] = listenerName
		}
		conn, err := pgx.ConnectConfig(ctx, cc)
		if err == nil {
			wait = 100 * time.Millisecond
			err = work(ctx, conn)
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			_ = conn.Close(closing)
			cancel()
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the run ends
		}
		d.log.WarnContext(ctx, "doorbell connection lost, trying again",
			"side", name, "error", Explain(err).Error(), "wait", wait.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(wait*2, 5*time.Second)
	}
	return nil
}

func (d *Doorbell) listen(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, `listen `+channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	d.mu.Lock()
	d.listener = conn.PgConn().PID()
	d.mu.Unlock()
	defer func() { // others cannot be heard
		d.mu.Lock()
		d.listener, d.alone = 0, false
		d.mu.Unlock()
	}()
	if _, err := conn.Exec(ctx, `select pg_notify($1, $2)`, channel, d.id+"\n"+hello); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	// What was rung before this connection listened is lost to it.
	d.wakeAll()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		from, keys, _ := strings.Cut(n.Payload, "\n")
		if from == d.id {
			continue
		}
		if keys == everyone {
			d.wakeAll()
			continue
		}
		d.mu.Lock()
		if keys == hello {
			d.hellos++
			d.alone = false
		}
		for key := range strings.SplitSeq(keys, "\n") {
			d.wake(key)
		}
		d.mu.Unlock()
	}
}

func (d *Doorbell) notify(ctx context.Context, conn *pgx.Conn) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	counted := time.Time{}
	for {
		// The pause comes before the wait for a ring, so that a lone ring
		// leaves at once and only a burst is slowed down.
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.due:
		}
		if time.Since(counted) > recount {
			counted = time.Now()
			if err := d.count(ctx, conn); err != nil {
				return err
			}
		}
		payload := d.take()
		if payload == "" {
			pause.Reset(0)
			continue
		}
		if _, err := conn.Exec(ctx, `select pg_notify($1, $2)`, channel, payload); err != nil {
			// Whether it arrived is unknown, and which keys no longer matters.
			d.Ring(everyone)
			return fmt.Errorf("notify: %w", err)
		}
		pause.Reset(coalesce)
	}
}

// count finds out whether this process is alone. A replica that begins to listen
// after the server counted says hello later, which is heard.
func (d *Doorbell) count(ctx context.Context, conn *pgx.Conn) error {
	d.mu.Lock()
	heard, listener := d.hellos, d.listener
	d.mu.Unlock()
	if listener == 0 {
		return nil
	}
	var others bool
	err := conn.QueryRow(ctx, `
		select exists (select from pg_stat_activity
		where datname = current_database() and application_name = $1 and pid <> $2)`, listenerName, int64(listener)).Scan(&others)
	if err != nil {
		return fmt.Errorf("count listeners: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alone = !others && d.listener == listener && d.hellos == heard
	return nil
}

func (d *Doorbell) take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.pending) == 0 {
		return ""
	}
	b := strings.Builder{}
	b.WriteString(d.id)
	for key := range d.pending {
		b.WriteByte('\n')
		b.WriteString(key)
	}
	clear(d.pending)
	d.bytes = 0
	return b.String()
}
