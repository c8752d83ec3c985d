// Package postgres opens a service's database, brings its schema up to date
// and carries wake-ups between replicas.
//
// A service that starts before its database is alive and not ready: Open does
// no I/O, and MigrateWait tries until the database answers, naming the cause
// and the fix in each log line.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/env"
)

// MinVersion is the oldest PostgreSQL major version Tiffin runs on.
const MinVersion = 15

// Config says which database to use and how much of it.
type Config struct {
	// URL is a connection URL: postgres://user:password@host:port/database?sslmode=disable.
	URL string
	// MaxConns bounds the pool. The doorbell takes two more connections and a
	// migration one, for as long as it runs.
	MaxConns int
}

// ConfigFrom reads DATABASE_URL and DATABASE_MAX_CONNS (default 10).
func ConfigFrom(r *env.Reader, defaultURL string) Config {
	cfg := Config{
		URL:      r.String("DATABASE_URL", defaultURL),
		MaxConns: r.Int("DATABASE_MAX_CONNS", 10, 2, 1000),
	}
	if _, err := pgxpool.ParseConfig(cfg.URL); err != nil {
		// pgx redacts the password in this message.
		r.Fail("DATABASE_URL", "%v (expected postgres://user:password@host:port/database)", err)
	}
	return cfg
}

// What a connection is set to unless the URL sets its own.
var sessionSettings = map[string]string{
	// A statement that runs for ever or a lock nobody gives back must become an
	// error, because behind it waits a partition of events or a client. All in
	// milliseconds.
	"statement_timeout":                   "30000",
	"lock_timeout":                        "10000",
	"idle_in_transaction_session_timeout": "60000",
	// Every statement is prepared and has one good plan, along an index: see the
	// tests that pin them. Left to itself the server makes some of them anew at
	// each execution, those with arrays above all, which costs more than
	// executing them.
	"plan_cache_mode": "force_generic_plan",
	// That plan is often made while a table is empty, when reading all of it looks
	// cheap, and is kept while the table grows.
	"enable_seqscan": "off",
	// What has no index looks dear then, and would be compiled.
	"jit": "off",
}

// connectTimeout bounds one attempt to connect: a host that swallows packets
// must not hold a request for minutes.
const connectTimeout = 5 * time.Second

// Open returns a pool without connecting: its errors are about cfg only.
func Open(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("database url: %w", err)
	}
	if cfg.MaxConns > 0 {
		pc.MaxConns = int32(min(cfg.MaxConns, 1000))
	}
	pc.MinConns = 0
	pc.MaxConnIdleTime = 5 * time.Minute
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = connectTimeout
	}
	for name, value := range sessionSettings {
		if _, set := pc.ConnConfig.RuntimeParams[name]; !set {
			pc.ConnConfig.RuntimeParams[name] = value
		}
	}
	pc.AfterConnect = takeUUIDs
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

// Ping reports whether the database answers; its error names the cause.
func Ping(ctx context.Context, pool *pgxpool.Pool) error {
	if err := pool.Ping(ctx); err != nil {
		return Explain(err)
	}
	return nil
}

// IsUnique reports whether err is a unique violation of the named constraint.
func IsUnique(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505" && pg.ConstraintName == constraint
}
