//go:build unix

// Package pgtest gives each test a PostgreSQL database of its own: a clone of
// a template that holds the service's migrated schema.
//
// One real server serves all test binaries of the user at once. The first one
// starts it (finding or downloading PostgreSQL), and it stops by itself when no
// test has run for a while, so nothing has to be installed, started or stopped.
package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// timeout bounds one step, with a first download of PostgreSQL in it.
const timeout = 6 * time.Minute

// New returns a pool on a fresh database with the migrations of schema msg and
// then of service. At the end of the test the pool is closed and the database
// dropped, unless the test failed: then it is kept for a while and its URL logged.
func New(t testing.TB, service fs.FS) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(context.Background(), postgres.Config{URL: URL(t, service), MaxConns: 10})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// URL is New for who opens the database itself, as a booted service does.
func URL(t testing.TB, service fs.FS) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var url string
	require.NoError(t, shared.use(ctx, func(s state) error {
		template, err := s.template(ctx, service)
		if err != nil {
			return err
		}
		url, err = s.create(ctx, template)
		return err
	}))
	keepOrDrop(t, url)
	return url
}

// Empty returns the URL of a fresh database without any schema.
func Empty(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var url string
	require.NoError(t, shared.use(ctx, func(s state) (err error) {
		url, err = s.create(ctx, "template1")
		return err
	}))
	keepOrDrop(t, url)
	return url
}

func keepOrDrop(t testing.TB, url string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() && shared.keep(ctx, url) {
			t.Logf("pgtest: the database is kept for half an hour: %s", url)
			return
		}
		if err := shared.drop(ctx, url); err != nil {
			// The server removes it in the end; a passed test has passed.
			t.Logf("pgtest: drop database: %v", err)
		}
	})
}

// exec runs one statement as the superuser on the server's own database.
func (s state) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

var clones atomic.Int64

// create makes a database named after this process, so that one which was
// killed can be cleaned up after.
func (s state) create(ctx context.Context, template string) (string, error) {
	name := fmt.Sprintf("%s%d_%d", clonePrefix, os.Getpid(), clones.Add(1))
	// FILE_COPY beats the default where fsync is off: it does not log each page.
	err := s.exec(ctx, `create database `+name+` template `+template+` strategy file_copy`)
	if err != nil {
		return "", fmt.Errorf("clone %s: %w", template, err)
	}
	return s.url(name), nil
}

// template returns the name of the database that holds service's schema,
// making it when these very migrations have none yet.
func (s state) template(ctx context.Context, service fs.FS) (string, error) {
	own, err := postgres.ServiceMigrations(service)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, files := range []fs.FS{postgres.MessagingMigrations(), own} {
		if files == nil {
			continue
		}
		names, err := fs.Glob(files, "*.sql")
		if err != nil {
			return "", err
		}
		for _, name := range names {
			text, err := fs.ReadFile(files, name)
			if err != nil {
				return "", err
			}
			_, _ = fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
		}
	}
	key := sum.Sum(nil)
	name := "tpl_" + hex.EncodeToString(key[:12])

	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	exists := func() (ok bool, err error) {
		err = conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1 and datistemplate)`, name).Scan(&ok)
		return ok, err
	}
	if ok, err := exists(); ok || err != nil {
		return name, err
	}
	// Held by this session: the kernel and the server free it if we are killed.
	if _, err := conn.Exec(ctx, `select pg_advisory_lock(hashtextextended($1, 0))`, name); err != nil {
		return "", err
	}
	if ok, err := exists(); ok || err != nil {
		return name, err
	}
	for _, sql := range []string{`drop database if exists ` + name + ` with (force)`, `create database ` + name} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return "", fmt.Errorf("make template: %w", err)
		}
	}
	pool, err := postgres.Open(ctx, postgres.Config{URL: s.url(name), MaxConns: 2})
	if err != nil {
		return "", err
	}
	err = postgres.Migrate(ctx, pool, service)
	pool.Close()
	if err != nil {
		return "", fmt.Errorf("make template: %w", err)
	}
	// Last, because it says that the template is whole.
	if _, err := conn.Exec(ctx, `alter database `+name+` is_template true`); err != nil {
		return "", fmt.Errorf("make template: %w", err)
	}
	return name, nil
}
