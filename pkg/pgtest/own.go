//go:build unix

package pgtest

import (
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/pgserver"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// Server is a PostgreSQL of one test's own, which it may kill, and in which it
// alone takes transaction ids.
type Server struct {
	URL  string
	Pool *pgxpool.Pool // migrated as by New

	t  testing.TB
	o  pgserver.Options
	at atomic.Pointer[pgserver.Server]
}

// Own starts a server that stops at the end of the test.
func Own(t testing.TB, service fs.FS) *Server {
	t.Helper()
	id, err := pgserver.Unprivileged()
	require.NoError(t, err)
	bin, err := pgserver.Finder{Getenv: os.Getenv, Identity: id}.Find(t.Context())
	require.NoError(t, err)
	cache, err := pgserver.CacheDir(id)
	require.NoError(t, err)
	dir, err := os.MkdirTemp(cache, "pgtest-own-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	s := &Server{t: t, o: pgserver.Options{
		Binaries: bin, Identity: id, Data: filepath.Join(dir, "data"), Port: l.Addr().(*net.TCPAddr).Port,
		User: "own", Password: "own", Databases: []string{"own"}, Death: syscall.SIGQUIT,
		// The server is killed, the machine is not: what was written stays.
		Settings: map[string]string{"fsync": "off", "full_page_writes": "off", "max_connections": "100"},
	}}
	s.URL = s.o.URL("own")
	require.NoError(t, pgserver.Init(t.Context(), s.o))
	s.start()
	t.Cleanup(func() { s.at.Load().Stop() })
	s.Pool, err = postgres.Open(t.Context(), postgres.Config{URL: s.URL, MaxConns: 10})
	require.NoError(t, err)
	t.Cleanup(s.Pool.Close)
	require.NoError(t, postgres.Migrate(t.Context(), s.Pool, service))
	return s
}

func (s *Server) start() {
	s.t.Helper()
	server, err := pgserver.Start(context.Background(), s.o)
	require.NoError(s.t, err)
	s.at.Store(server)
}

// Crash kills the server as a power cut would, memory of the machine excepted,
// and starts it again.
func (s *Server) Crash() {
	s.t.Helper()
	s.at.Load().Process.Stop(syscall.SIGKILL, time.Minute)
	s.start()
}
