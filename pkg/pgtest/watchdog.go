//go:build unix

package pgtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/pgserver"
)

const (
	watchdogArg = "tiffin-pgtest-watchdog"
	watchdogEnv = "TIFFIN_PGTEST_WATCHDOG"

	idle     = 90 * time.Second
	idleKept = 30 * time.Minute // while a failed test's database waits to be looked at
)

// watchdogJob tells the watchdog what to start.
type watchdogJob struct {
	Dir      string
	Parent   string
	Bin      pgserver.Binaries
	Password string
}

// The server must outlive the test binary that starts it and end some time
// after the last one, so a process of its own watches it: this binary, executed
// again. That copy must not run the tests, and a package has no way to be asked
// before them but init.
func init() {
	job := os.Getenv(watchdogEnv)
	if job == "" || len(os.Args) != 2 || os.Args[1] != watchdogArg {
		return
	}
	if err := watch([]byte(job)); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func watch(text []byte) error {
	var job watchdogJob
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server, s, err := startServer(ctx, job)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(filepath.Dir(s.Data)) }()
	defer server.Stop()
	if err := writeState(job.Dir, s); err != nil {
		return err
	}
	last := time.Now()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-server.Done():
			return fmt.Errorf("server ended: %w", server.Err())
		case <-tick.C:
		}
		limit := idle
		if exists(filepath.Join(job.Dir, "kept")) {
			limit = idleKept
		}
		if used(job.Dir) {
			last = time.Now()
		} else if time.Since(last) > limit && retire(job.Dir) {
			return nil
		}
	}
}

// used reports whether a test binary holds the users' lock.
func used(dir string) bool {
	file, err := os.OpenFile(filepath.Join(dir, "users.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return true
	}
	defer func() { _ = file.Close() }() // frees the lock
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

// retire makes the server unknown, under the lock that its finders take, so
// that none of them gets a server that is about to stop.
func retire(dir string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	unlock, err := pgserver.Lock(ctx, filepath.Join(dir, "boot.lock"))
	if err != nil {
		return false
	}
	defer unlock()
	if used(dir) {
		return false
	}
	_ = os.Remove(filepath.Join(dir, "kept"))
	return os.Remove(filepath.Join(dir, "server.json")) == nil
}

func startServer(ctx context.Context, job watchdogJob) (*pgserver.Server, state, error) {
	id, err := pgserver.Unprivileged()
	if err != nil {
		return nil, state{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Second)
	defer cancel()
	parent, err := os.MkdirTemp(job.Parent, "tiffin-pgtest-")
	if err != nil {
		return nil, state{}, err
	}
	if err := os.Chmod(parent, 0o711); err != nil {
		return nil, state{}, err
	}
	o := pgserver.Options{
		Binaries: job.Bin, Identity: id, Data: filepath.Join(parent, "data"),
		User: user, Password: job.Password, Output: os.Stderr, Death: syscall.SIGQUIT,
		Settings: map[string]string{
			// Test data need not survive a crash.
			"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off",
			"max_connections": "400", "shared_buffers": "64MB", "max_wal_size": "256MB",
			"autovacuum": "off",
			// In the data directory, which goes away with the server, also after kill -9.
			"dynamic_shared_memory_type": "mmap",
			"log_min_messages":           "fatal", "log_min_error_statement": "panic",
		},
	}
	err = pgserver.Init(ctx, o)
	for try := 0; err == nil; try++ {
		if o.Port, err = freePort(); err != nil {
			break
		}
		var server *pgserver.Server
		if server, err = pgserver.Start(ctx, o); err == nil {
			return server, state{Port: o.Port, Password: o.Password, Data: o.Data, Watchdog: os.Getpid()}, nil
		}
		if try < 3 && ctx.Err() == nil {
			err = nil // most likely the port was taken meanwhile
		}
	}
	_ = os.RemoveAll(parent)
	return nil, state{}, err
}
