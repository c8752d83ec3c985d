package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func files(sql string) fstest.MapFS {
	return fstest.MapFS{"migrations/00001_first.sql": {Data: []byte("-- +goose Up\n" + sql)}}
}

func open(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 4})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// syncBuffer is a log that a test reads while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestReplicasMigrateAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	service := files("create table dish (name text); insert into dish values ('dal');")
	var wait sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		pool := open(t, url)
		wait.Go(func() { errs[i] = postgres.Migrate(context.Background(), pool, service) })
	}
	wait.Wait()
	require.NoError(t, errors.Join(errs...))

	pool := open(t, url)
	var dishes, msg, own int
	err := pool.QueryRow(t.Context(), `select (select count(*) from dish),
		(select max(version_id) from msg.goose_version), (select max(version_id) from public.goose_db_version)`).Scan(&dishes, &msg, &own)
	require.NoError(t, err)
	require.Equal(t, 1, dishes)
	require.Positive(t, msg)
	require.Equal(t, 1, own)
	require.NoError(t, postgres.Migrate(t.Context(), pool, service), "a second time does nothing")
}

func TestMigrateNeedsFiles(t *testing.T) {
	t.Parallel()
	err := postgres.Migrate(t.Context(), open(t, "postgres://localhost:1/x"), fstest.MapFS{})
	require.EqualError(t, err, "migrations: no *.sql at the root or in migrations/")
}

func TestMigrateWaitsForDatabase(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	admin := open(t, url)
	missing := strings.Replace(url, admin.Config().ConnConfig.Database, admin.Config().ConnConfig.Database+"_late", 1)
	log := &syncBuffer{}
	done := make(chan error, 1)
	go func() {
		done <- postgres.MigrateWait(context.Background(), open(t, missing), nil, slog.New(slog.NewTextHandler(log, nil)))
	}()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "create it (create database") }, time.Minute, 5*time.Millisecond)
	name := open(t, missing).Config().ConnConfig.Database
	_, err := admin.Exec(t.Context(), `create database `+name)
	require.NoError(t, err)
	require.NoError(t, <-done)
	_, err = admin.Exec(t.Context(), `drop database `+name+` with (force)`)
	require.NoError(t, err)
}

func TestMigrateWaitGivesUpOnWhatWaitingDoesNotCure(t *testing.T) {
	t.Parallel()
	pool := open(t, pgtest.Empty(t))
	err := postgres.MigrateWait(t.Context(), pool, files("create tabel x ();"), slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "tabel")
}

func TestMigrateWaitEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := postgres.MigrateWait(ctx, open(t, "postgres://x@"+closedAddr(t)+"/x"), nil, slog.New(slog.DiscardHandler))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// closedAddr is an address that nobody listens on.
func closedAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func TestErrorsNameCauseAndFix(t *testing.T) {
	t.Parallel()
	good := open(t, pgtest.Empty(t)).Config().ConnConfig
	host := fmt.Sprintf("%s:%d", good.Host, good.Port)
	for name, c := range map[string]struct{ url, want string }{
		"down":     {"postgres://x@" + closedAddr(t) + "/x?sslmode=disable", "nothing listens there: start PostgreSQL"},
		"host":     {"postgres://x@no-such-host.invalid/x", "correct it in DATABASE_URL"},
		"password": {"postgres://tiffin:wrong@" + host + "/postgres?sslmode=disable", "the server refuses this user or password"},
		"database": {"postgres://tiffin:" + good.Password + "@" + host + "/nowhere?sslmode=disable", "the database does not exist: create it"},
		"tls":      {"postgres://tiffin:" + good.Password + "@" + host + "/postgres?sslmode=require", "add ?sslmode=disable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := postgres.Ping(t.Context(), open(t, c.url))
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), good.Password)
		})
	}
}

func TestOpenSetsWhatTheURLDoesNot(t *testing.T) {
	t.Parallel()
	url := pgtest.Empty(t)
	show := func(url string) (statement, lock, plans string) {
		pool := open(t, url)
		require.NoError(t, pool.QueryRow(t.Context(), `select current_setting('statement_timeout'), current_setting('lock_timeout'),
			concat_ws(' ', current_setting('plan_cache_mode'), current_setting('enable_seqscan'))`).Scan(&statement, &lock, &plans))
		return statement, lock, plans
	}
	statement, lock, plans := show(url)
	require.Equal(t, "30s", statement)
	require.Equal(t, "10s", lock)
	require.Equal(t, "force_generic_plan off", plans)
	statement, _, plans = show(url + "&statement_timeout=7000&plan_cache_mode=auto&enable_seqscan=on")
	require.Equal(t, "7s", statement)
	require.Equal(t, "auto on", plans)
}

func TestConfigReportsBadURLWithoutThePassword(t *testing.T) {
	t.Parallel()
	r := env.New(func(name string) string {
		return map[string]string{"DATABASE_URL": "postgres://u:geheim@host:port/db", "DATABASE_MAX_CONNS": "0"}[name]
	})
	postgres.ConfigFrom(r, "")
	require.ErrorContains(t, r.Err(), "DATABASE_URL: ")
	require.ErrorContains(t, r.Err(), "DATABASE_MAX_CONNS: ")
	require.NotContains(t, r.Err().Error(), "geheim")
}

func TestIsUnique(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, files("create table dish (name text, constraint one_name unique (name)); insert into dish values ('dal');"))
	_, err := pool.Exec(t.Context(), `insert into dish values ('dal')`)
	require.True(t, postgres.IsUnique(err, "one_name"))
	require.False(t, postgres.IsUnique(err, "other"))
	require.False(t, postgres.IsUnique(nil, "one_name"))
}

func TestUUIDsTravelAsTheyAre(t *testing.T) { // not parallel: it counts allocations
	pool := open(t, pgtest.Empty(t))
	id, none := uuid.New(), (*uuid.UUID)(nil)
	var one, text string
	var null bool
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), `select $1::uuid::text, $2::uuid is null, cardinality($3::uuid[]), $4::text`,
		&id, none, []uuid.UUID{id, id}, id).Scan(&one, &null, &n, &text))
	require.Equal(t, id.String(), one)
	require.True(t, null)
	require.Equal(t, 2, n)
	require.Equal(t, id.String(), text)

	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	buf := make([]byte, 0, 16)
	m := conn.Conn().TypeMap()
	encode := func() { buf, err = m.Encode(pgtype.UUIDOID, pgtype.BinaryFormatCode, id, buf[:0]) }
	encode()
	require.NoError(t, err)
	require.Equal(t, id[:], buf)
	require.Less(t, testing.AllocsPerRun(100, encode), 6.0, "not by way of text and errors")
}
