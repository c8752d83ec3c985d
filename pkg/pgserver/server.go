//go:build unix

package pgserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Options describes one server.
type Options struct {
	Binaries Binaries
	Identity Identity
	// Data is the data directory. Its parent exists and the user can enter it.
	Data string
	Port int
	// User is the superuser, with this password.
	User, Password string
	// Databases are made when they are missing.
	Databases []string
	// Settings go to the command line, over the defaults.
	Settings map[string]string
	// Output gets the server's log. Nil discards it.
	Output io.Writer
	// Death is the signal the server gets when this process dies (Linux).
	Death syscall.Signal
}

// Settings for a laptop with four of these beside each other; durable.
var defaults = map[string]string{
	"listen_addresses":                "127.0.0.1",
	"unix_socket_directories":         "",
	"shared_buffers":                  "64MB",
	"max_connections":                 "40",
	"max_wal_size":                    "512MB",
	"jit":                             "off",
	"max_logical_replication_workers": "0",
	"autovacuum_max_workers":          "1",
	"timezone":                        "UTC",
	"log_timezone":                    "UTC",
}

// Init makes a data directory unless there is one. It is complete or not
// there: initdb works beside it and the result is renamed.
func Init(ctx context.Context, o Options) error {
	if _, err := os.Stat(filepath.Join(o.Data, "PG_VERSION")); err == nil {
		return nil
	}
	temp := o.Data + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := os.Mkdir(temp, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w%s", err, diskHint(err))
	}
	if err := o.Identity.own(temp); err != nil {
		return err
	}
	// initdb reads the password from a file and closes it before it works.
	secret, err := os.CreateTemp(filepath.Dir(o.Data), "pw-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(secret.Name()) }()
	_, err = secret.WriteString(o.Password + "\n")
	if err := errors.Join(err, secret.Close(), o.Identity.own(secret.Name())); err != nil {
		return err
	}
	cmd := o.Identity.command(ctx, temp, filepath.Join(o.Binaries.Dir, "initdb"),
		"--pgdata="+temp, "--username="+o.User, "--pwfile="+secret.Name(), "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(temp)
		return fmt.Errorf("initdb: %w\n%s%s", err, strings.TrimSpace(string(out)), outputHint(string(out)))
	}
	_ = os.RemoveAll(o.Data) // what a copy that was cut off left
	return os.Rename(temp, o.Data)
}

// CopyData copies a data directory that no server uses.
func CopyData(id Identity, from, to string) error {
	temp := to + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(temp, rel)
		if d.IsDir() {
			if err := os.Mkdir(dst, 0o700); err != nil {
				return err
			}
			return id.own(dst)
		}
		return copyFile(id, path, dst)
	})
	if err != nil {
		_ = os.RemoveAll(temp)
		return fmt.Errorf("copy data directory: %w%s", err, diskHint(err))
	}
	return os.Rename(temp, to)
}

func copyFile(id Identity, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if id.drop {
		err = errors.Join(err, out.Chown(id.UID, id.GID))
	}
	return errors.Join(err, out.Close())
}

// Server is a running PostgreSQL.
type Server struct {
	*proc.Process
	opts Options
	log  *proc.Tail
}

// Start stops what an earlier run left on the data directory, starts the
// server in the foreground and returns when it answers and the databases exist.
func Start(ctx context.Context, o Options) (*Server, error) {
	StopStray(o.Data)
	give := time.Now().Add(10 * time.Second)
	for {
		s, err := launch(ctx, o)
		if err == nil {
			return s, nil
		}
		// After kill -9 of a server its children hold the shared memory for a moment.
		if text := err.Error(); time.Now().After(give) || ctx.Err() != nil ||
			!strings.Contains(text, "shared memory block") && !strings.Contains(text, "postmaster.pid") {
			return nil, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func launch(ctx context.Context, o Options) (*Server, error) {
	args := []string{"-D", o.Data, "-p", strconv.Itoa(o.Port)}
	settings := map[string]string{}
	for _, set := range []map[string]string{defaults, o.Settings} {
		for name, value := range set {
			settings[name] = value
		}
	}
	args = append(args, flagged(settings)...)
	s := &Server{opts: o, log: &proc.Tail{}}
	// Not bound to ctx: a cancelled start is stopped below, in order.
	cmd := o.Identity.command(context.WithoutCancel(ctx), o.Data, filepath.Join(o.Binaries.Dir, "postgres"), args...)
	out := io.Writer(s.log)
	if o.Output != nil {
		out = io.MultiWriter(s.log, o.Output)
	}
	cmd.Stdout, cmd.Stderr = out, out
	var err error
	if s.Process, err = proc.Start(cmd, o.Death); err != nil {
		return nil, fmt.Errorf("%w (data directory %s, user %s)", err, o.Data, o.Identity.Name)
	}
	if err := s.ready(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func flagged(settings map[string]string) []string {
	var flags []string
	for name, value := range settings {
		flags = append(flags, "--"+name+"="+value)
	}
	slices.Sort(flags)
	return flags
}

// URL returns the connection URL of one of the server's databases.
func (o Options) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(o.User, o.Password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port)), Path: database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// ready waits until the server answers, which after a crash takes as long as
// its recovery, and makes the databases.
func (s *Server) ready(ctx context.Context) error {
	for {
		conn, err := s.connect(ctx)
		if err == nil {
			var ours bool
			// The port may have another server, while ours is about to give up.
			err = conn.QueryRow(ctx, `select current_setting('data_directory') = $1`, s.opts.Data).Scan(&ours)
			if err == nil && ours {
				err = s.createDatabases(ctx, conn)
				_ = conn.Close(ctx)
				return err
			}
			_ = conn.Close(ctx)
			err = cmp.Or(err, errors.New("another PostgreSQL has the port"))
		}
		select {
		case <-s.Done():
			return fmt.Errorf("PostgreSQL on port %d ended: %w\n%s%s", s.opts.Port, s.Err(), s.log, outputHint(s.log.String()))
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL on port %d does not answer: %w\n%s", s.opts.Port, err, s.log)
		case <-time.After(15 * time.Millisecond):
		}
		if strings.Contains(err.Error(), "28P01") {
			return fmt.Errorf("PostgreSQL on port %d has another password than it was made with: remove %s: %w", s.opts.Port, s.opts.Data, err)
		}
	}
}

func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return pgx.Connect(ctx, s.opts.URL("postgres"))
}

func (s *Server) createDatabases(ctx context.Context, conn *pgx.Conn) error {
	for _, name := range s.opts.Databases {
		var exists bool
		if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, name).Scan(&exists); err != nil {
			return fmt.Errorf("look for database %s: %w", name, err)
		}
		if exists {
			continue
		}
		if _, err := conn.Exec(ctx, `create database `+pgx.Identifier{name}.Sanitize()); err != nil {
			return fmt.Errorf("create database %s: %w", name, err)
		}
	}
	return nil
}

// Stop ends the server: sessions are cut, then everything is written (SIGINT,
// fast shutdown); by and by with more force. It returns when it is gone.
func (s *Server) Stop() {
	s.Signal(syscall.SIGINT)
	select {
	case <-s.Done():
		return
	case <-time.After(10 * time.Second):
	}
	s.Process.Stop(syscall.SIGQUIT, 5*time.Second)
}

// StopStray ends a server that still runs on data, left behind by a run whose
// death the kernel did not pass on. It reports whether there was one.
func StopStray(data string) bool {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return false
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return false
	}
	return proc.StopStray(pid, "-D "+data+" ", syscall.SIGINT, 5*time.Second)
}

// outputHint says what to do about a cause that the server's own words hide.
func outputHint(out string) string {
	switch {
	case strings.Contains(out, "No space left on device"):
		return "\nThe disk is full: free space, then start again."
	case strings.Contains(out, "could not create shared memory") || strings.Contains(out, "could not map anonymous shared memory"):
		return "\nThe system gives no more shared memory: close programs or raise its limits."
	case strings.Contains(out, "Address already in use"):
		return "\nAnother program has the port."
	}
	return ""
}
