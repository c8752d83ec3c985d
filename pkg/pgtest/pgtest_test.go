//go:build unix

package pgtest

import (
	"context"
	"os"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func migrations(sql string) fstest.MapFS {
	return fstest.MapFS{"00001_x.sql": &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql)}}
}

func TestNewMigratesAndIsolates(t *testing.T) {
	t.Parallel()
	files := migrations("create table dish (name text primary key);")
	var wait sync.WaitGroup
	for range 4 {
		pool := New(t, files)
		wait.Go(func() {
			_, err := pool.Exec(context.Background(), `insert into dish values ('dal')`)
			require.NoError(t, err)
		})
	}
	wait.Wait()
}

func TestNewWithoutServiceMigrations(t *testing.T) {
	t.Parallel()
	var found bool
	err := New(t, nil).QueryRow(t.Context(), `select to_regclass('msg.goose_version') is not null`).Scan(&found)
	require.NoError(t, err)
	require.True(t, found)
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), Empty(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	var schemas int
	require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from pg_namespace where nspname = 'msg'`).Scan(&schemas))
	require.Zero(t, schemas)
}

// probe is a test that says whether it failed, without failing this one.
type probe struct {
	testing.TB
	failed  bool
	cleanup []func()
}

func (p *probe) Failed() bool     { return p.failed }
func (p *probe) Cleanup(f func()) { p.cleanup = append([]func(){f}, p.cleanup...) }
func (p *probe) end() {
	for _, f := range p.cleanup {
		f()
	}
}

func TestDroppedAtTheEndUnlessFailed(t *testing.T) {
	t.Parallel()
	for _, failed := range []bool{false, true} {
		p := &probe{TB: t, failed: failed}
		url := Empty(p)
		p.end()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := pgx.Connect(ctx, url)
		cancel()
		if !failed {
			require.ErrorContains(t, err, "does not exist")
			continue
		}
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
		require.NoError(t, shared.drop(t.Context(), url))
		_ = os.Remove(shared.dir + "/kept") // another test process may have been faster
	}
}

func TestBadMigrationIsNamed(t *testing.T) {
	t.Parallel()
	err := shared.use(t.Context(), func(s state) error {
		_, err := s.template(t.Context(), migrations("create tabel x ();"))
		return err
	})
	require.ErrorContains(t, err, "tabel")
}

func TestMessagingMigrationsCanBeTakenBack(t *testing.T) {
	t.Parallel()
	DownAndUp(t, nil)
}

func TestTheOutboxHasASmallSample(t *testing.T) {
	t.Parallel()
	SmallSamples(t, New(t, nil), "msg.outbox")
}

func TestPlansFindScansAndSorts(t *testing.T) {
	t.Parallel()
	pool := New(t, nil)
	_, err := pool.Exec(t.Context(), `create table things (id int primary key, name text);
		insert into things select n, 'thing' from generate_series(1, 5000) n`)
	require.NoError(t, err)
	plans := Watch(t, pool)
	for sql, fine := range map[string]bool{
		`select name from things where id = $1`:                                true,
		`select name from things where id > $1 order by id limit 10`:           true,
		`update things set name = 'x' where id = $1`:                           true,
		`select id from things where name = 'x' and id <> $1`:                  false,
		`select id from things where id < $1 + 4000 order by name, id limit 3`: false,
	} {
		_, err := plans.Pool.Exec(t.Context(), sql, 7)
		require.NoError(t, err)
		found := &failures{TB: t}
		require.Equal(t, 1, plans.Require(found))
		require.Equal(t, fine, found.n == 0, sql)
	}
}

// failures counts what would fail a test.
type failures struct {
	testing.TB
	n int
}

func (f *failures) Errorf(string, ...any) { f.n++ }
