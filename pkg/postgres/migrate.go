package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed msg/*.sql
var shipped embed.FS

// migrationLock is the advisory lock under which replicas migrate one after
// another. The number means nothing; it must only be the same everywhere.
const migrationLock = 0x7469666669 // "tiffi"

// MessagingMigrations returns the migrations of schema msg, which every
// service's database gets before its own.
func MessagingMigrations() fs.FS {
	sub, err := fs.Sub(shipped, "msg")
	if err != nil {
		panic(err) // the embedded folder is part of this package
	}
	return sub
}

// ServiceMigrations returns the folder of service that holds its *.sql files:
// its root, or the folder migrations in it. Nil stands for no migrations.
func ServiceMigrations(service fs.FS) (fs.FS, error) {
	if service == nil {
		return nil, nil
	}
	for _, dir := range []string{".", "migrations"} {
		files, err := fs.Glob(service, pathIn(dir, "*.sql"))
		if err != nil {
			return nil, fmt.Errorf("migrations: %w", err)
		}
		if len(files) > 0 {
			return fs.Sub(service, dir)
		}
	}
	return nil, errors.New("migrations: no *.sql at the root or in migrations/")
}

func pathIn(dir, pattern string) string {
	if dir == "." {
		return pattern
	}
	return dir + "/" + pattern
}

// Migrate brings schema msg and then the service's own schema up to date. Any
// number of replicas may call it at once: one works, the others wait for it.
// The two sets keep their versions apart, in msg.goose_version and
// public.goose_db_version.
func Migrate(ctx context.Context, pool *pgxpool.Pool, service fs.FS) error {
	own, err := ServiceMigrations(service)
	if err != nil {
		return err
	}
	// Connections of its own: the pool's statement timeout is for requests, a
	// migration may have to rewrite a table. It still gives up on a lock soon,
	// because everything that comes later queues behind a waiting ALTER TABLE.
	cc := pool.Config().ConnConfig
	cc.RuntimeParams["statement_timeout"] = "0"
	cc.RuntimeParams["idle_in_transaction_session_timeout"] = "0"

	lock := cc.Copy()
	lock.RuntimeParams["lock_timeout"] = "0" // a replica may wait for another's long migration
	holder, err := pgx.ConnectConfig(ctx, lock)
	if err != nil {
		return Explain(err)
	}
	// Closing the session frees the lock, whatever happened before.
	defer func() { _ = holder.Close(context.WithoutCancel(ctx)) }()
	if err := checkVersion(ctx, holder); err != nil {
		return err
	}
	if _, err := holder.Exec(ctx, `select pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
		return Explain(fmt.Errorf("lock migrations: %w", err))
	}
	// goose keeps its version table in the schema it manages, so the schema comes first.
	if _, err := holder.Exec(ctx, `create schema if not exists msg`); err != nil {
		return Explain(fmt.Errorf("create schema msg: %w", err))
	}

	db := stdlib.OpenDB(*cc)
	defer func() { _ = db.Close() }()
	if err := up(ctx, db, MessagingMigrations(), "msg.goose_version"); err != nil {
		return Explain(fmt.Errorf("migrate schema msg: %w", err))
	}
	if own == nil {
		return nil
	}
	if err := up(ctx, db, own, "public.goose_db_version"); err != nil {
		return Explain(fmt.Errorf("migrate: %w", err))
	}
	return nil
}

func up(ctx context.Context, db *sql.DB, files fs.FS, table string) error {
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(table), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

func checkVersion(ctx context.Context, conn *pgx.Conn) error {
	var number string
	if err := conn.QueryRow(ctx, `select current_setting('server_version_num')`).Scan(&number); err != nil {
		return Explain(fmt.Errorf("read server version: %w", err))
	}
	return supported(number)
}

// supported judges a server_version_num.
func supported(number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("server version %q: %w", number, err)
	}
	if n/10000 < MinVersion {
		return fmt.Errorf("%w: the server is version %d, Tiffin needs %d or newer: upgrade it or let DATABASE_URL point at a newer one",
			errTooOld, n/10000, MinVersion)
	}
	return nil
}

// MigrateWait is Migrate that waits, with a log line per attempt, for a
// database that is down, full, or not yet what the settings say. It returns an
// error only when ctx ends or when the server refuses a migration, which
// waiting does not cure.
func MigrateWait(ctx context.Context, pool *pgxpool.Pool, service fs.FS, log *slog.Logger) error {
	started := time.Now()
	wait := 100 * time.Millisecond
	for {
		err := Migrate(ctx, pool, service)
		switch {
		case err == nil:
			log.InfoContext(ctx, "database ready", "took", time.Since(started).Round(time.Millisecond).String())
			return nil
		case ctx.Err() != nil:
			return cmp.Or(context.Cause(ctx), ctx.Err())
		case !passing(err):
			return err
		}
		log.WarnContext(ctx, "database not ready, trying again", "error", err.Error(), "wait", wait.String())
		// Jitter, so that replicas do not come back in step.
		timer := time.NewTimer(wait/2 + rand.N(wait)) //nolint:gosec // not a secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		wait = min(wait*2, 5*time.Second)
	}
}
