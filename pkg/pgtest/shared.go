//go:build unix

package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/pkg/pgserver"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

const (
	clonePrefix = "t_"
	user        = "tiffin"
	// Raise it when what the server is started with changes, so that a running
	// one of an older checkout is left alone.
	scheme = "2"
)

// state is what server.json says about the running server.
type state struct {
	Port     int    `json:"port"`
	Password string `json:"password"`
	Data     string `json:"data"`
	Watchdog int    `json:"watchdog"`
}

func (s state) url(database string) string {
	return pgserver.Options{Port: s.Port, User: user, Password: s.Password}.URL(database)
}

// client is this process's view of the shared server.
type client struct {
	mu    sync.Mutex
	dir   string
	users *os.File // holds the shared lock that keeps the server up
	now   state
	found bool
}

var shared client

// use calls fn with the running server; when it turns out to be gone, with a
// new one, once more.
func (c *client) use(ctx context.Context, fn func(state) error) error {
	for attempt := 0; ; attempt++ {
		s, err := c.ensure(ctx)
		if err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		err = fn(s)
		if err == nil {
			return nil
		}
		if attempt == 2 || answers(ctx, s) {
			return fmt.Errorf("pgtest: %w", err)
		}
		c.mu.Lock()
		if c.now == s {
			c.found = false
		}
		c.mu.Unlock()
	}
}

func answers(ctx context.Context, s state) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return false
	}
	_ = conn.Close(ctx)
	return true
}

// ensure returns the server, starting it when none runs.
func (c *client) ensure(ctx context.Context) (state, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found {
		return c.now, nil
	}
	id, err := pgserver.Unprivileged()
	if err != nil {
		return state{}, err
	}
	if c.dir == "" {
		cache, err := pgserver.CacheDir(id)
		if err != nil {
			return state{}, err
		}
		dir := filepath.Join(cache, "pgtest-"+scheme)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return state{}, err
		}
		c.dir = dir
	}
	// One process at a time looks and starts.
	unlock, err := pgserver.Lock(ctx, filepath.Join(c.dir, "boot.lock"))
	if err != nil {
		return state{}, err
	}
	defer unlock()
	if c.users == nil {
		// Shared, for as long as this process lives: the kernel gives it back
		// even after kill -9, and the watchdog sees that nobody is left.
		file, err := os.OpenFile(filepath.Join(c.dir, "users.lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return state{}, err
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH); err != nil {
			_ = file.Close()
			return state{}, fmt.Errorf("lock users: %w", err)
		}
		c.users = file
	}
	s, err := readState(c.dir)
	if err != nil || !answers(ctx, s) {
		if s, err = c.boot(ctx, id, s); err != nil {
			return state{}, err
		}
	}
	sweep(ctx, s)
	c.now, c.found = s, true
	return s, nil
}

func readState(dir string) (state, error) {
	var s state
	b, err := os.ReadFile(filepath.Join(dir, "server.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

func writeState(dir string, s state) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, "server.json.new")
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, "server.json"))
}

// boot clears what a dead server left and has a watchdog start a new one.
func (c *client) boot(ctx context.Context, id pgserver.Identity, old state) (state, error) {
	if old.Watchdog != 0 {
		proc.StopStray(old.Watchdog, watchdogArg, syscall.SIGKILL, 0)
	}
	if old.Data != "" {
		pgserver.StopStray(old.Data)
		_ = os.RemoveAll(filepath.Dir(old.Data))
	}
	_ = os.Remove(filepath.Join(c.dir, "server.json"))
	_ = os.Remove(filepath.Join(c.dir, "kept"))

	say := func(line string) { _, _ = fmt.Fprintln(os.Stderr, "pgtest: "+line) }
	bin, err := pgserver.Finder{Getenv: os.Getenv, Identity: id, Progress: say}.Find(ctx)
	if err != nil {
		return state{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return state{}, err
	}
	job := watchdogJob{Dir: c.dir, Bin: bin, Password: rand.Text(), Parent: dataParent(ctx, id, c.dir)}
	arg, err := json.Marshal(job)
	if err != nil {
		return state{}, err
	}
	// Its output goes to a file: on our stdout, go test would wait for its end.
	logPath := filepath.Join(c.dir, "watchdog.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return state{}, err
	}
	defer func() { _ = logFile.Close() }()
	cmd := exec.Command(exe, watchdogArg)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), watchdogEnv+"="+string(arg))
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return state{}, fmt.Errorf("start watchdog: %w", err)
	}
	pid := cmd.Process.Pid
	// Waited for without a goroutine, which would count as a leak of the test
	// that happens to be first.
	defer func() { _ = cmd.Process.Release() }()

	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if s, err := readState(c.dir); err == nil && s.Watchdog == pid {
			return s, nil
		}
		if got, _ := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); got == pid {
			text, _ := os.ReadFile(logPath)
			return state{}, fmt.Errorf("the test server did not start:\n%s", text)
		}
		select {
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return state{}, fmt.Errorf("the test server did not start in time, see %s: %w", logPath, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// roomy is how much must be free in memory before test data goes there.
const roomy = 2 << 30

// dataParent chooses where the data lives: in memory where there is room,
// which is worth more than all other settings together.
func dataParent(ctx context.Context, id pgserver.Identity, fallback string) string {
	const memory = "/dev/shm"
	var st syscall.Statfs_t
	if syscall.Statfs(memory, &st) == nil && int64(st.Bavail)*int64(st.Bsize) > roomy && id.CanEnter(ctx, memory) { //nolint:unconvert // other systems have other types
		return memory
	}
	return fallback
}

// keep marks a failed test's database so that it outlives the test. Only the
// latest ones are kept.
func (c *client) keep(ctx context.Context, dbURL string) bool {
	const most = 20
	s, err := c.ensure(ctx)
	if err != nil {
		return false
	}
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(ctx) }()
	// A comment, not a new name: the URL that the test has seen stays good.
	if _, err = conn.Exec(ctx, `comment on database `+database(dbURL)+` is 'kept'`); err != nil {
		return false
	}
	rows, err := conn.Query(ctx, `select datname from pg_database where shobj_description(oid, 'pg_database') = 'kept' order by oid desc`)
	if err != nil {
		return false
	}
	kept, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false
	}
	for _, old := range kept[min(most, len(kept)):] {
		_, _ = conn.Exec(ctx, `drop database if exists `+pgx.Identifier{old}.Sanitize()+` with (force)`)
	}
	return os.WriteFile(filepath.Join(c.dir, "kept"), nil, 0o600) == nil
}

func (c *client) drop(ctx context.Context, dbURL string) error {
	c.mu.Lock()
	s := c.now
	c.mu.Unlock()
	if u, err := url.Parse(dbURL); err != nil || u.Port() != strconv.Itoa(s.Port) {
		return nil //nolint:nilerr // a server that is gone took it along
	}
	return s.exec(ctx, `drop database if exists `+database(dbURL)+` with (force)`)
}

func database(dbURL string) string {
	u, err := url.Parse(dbURL)
	if err != nil {
		return ""
	}
	return pgx.Identifier{strings.TrimPrefix(u.Path, "/")}.Sanitize()
}

// sweep drops the databases of test processes that were killed.
func sweep(ctx context.Context, s state) {
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `select datname from pg_database
		where datname like 't\_%' and shobj_description(oid, 'pg_database') is distinct from 'kept'`)
	if err != nil {
		return
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return
	}
	for _, name := range names {
		first, _, _ := strings.Cut(strings.TrimPrefix(name, clonePrefix), "_")
		if pid, err := strconv.Atoi(first); err == nil && !proc.Alive(pid) {
			_, _ = conn.Exec(ctx, `drop database if exists `+name+` with (force)`)
		}
	}
}

// freePort asks the system for a port. Somebody may take it before we do;
// the watchdog then tries another.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return addr.Port, nil
}

// exists reports whether the path is there.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
