//go:build unix

package pgserver

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prepare returns the options of a server with a fresh data directory.
func prepare(t *testing.T) Options {
	t.Helper()
	id, err := Unprivileged()
	require.NoError(t, err)
	bin, err := Finder{Getenv: os.Getenv, Identity: id}.Find(t.Context())
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/tmp", "pgserver-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
	require.NoError(t, l.Close())
	o := Options{
		Binaries: bin, Identity: id, Data: filepath.Join(dir, "pristine"), Port: port, User: "tiffin", Password: "secret",
		Databases: []string{"order_db"}, Death: syscall.SIGQUIT, Settings: map[string]string{"fsync": "off", "max_connections": "10"},
	}
	require.NoError(t, Init(t.Context(), o))
	return o
}

func query(t *testing.T, o Options, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), o.URL("order_db"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), sql)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestServerKeepsItsDataAcrossKills(t *testing.T) {
	t.Parallel()
	o := prepare(t)
	copied := filepath.Join(filepath.Dir(o.Data), "copy")
	require.NoError(t, CopyData(o.Identity, o.Data, copied))
	o.Data = copied

	s, err := Start(t.Context(), o)
	require.NoError(t, err)
	query(t, o, `create table dish (name text)`)
	s.Signal(syscall.SIGKILL)
	<-s.Done()

	s, err = Start(t.Context(), o)
	require.NoError(t, err)
	query(t, o, `insert into dish values ('dal')`)

	// Another start finds the one that runs, as after a death that the kernel
	// did not pass on, and takes its place.
	pid := s.Pid()
	s, err = Start(t.Context(), o)
	require.NoError(t, err)
	require.NotEqual(t, pid, s.Pid())
	query(t, o, `select name from dish`)
	s.Stop()
	require.Empty(t, proc.CommandLine(s.Pid()))
	require.NoError(t, s.Err())
}

func TestStartNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	o := prepare(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	taken := o
	taken.Port = l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
	_, err = Start(t.Context(), taken)
	require.ErrorContains(t, err, "Another program has the port.")

	other := o
	other.Password = "changed"
	_, err = Start(t.Context(), other)
	require.ErrorContains(t, err, "has another password than it was made with: remove "+o.Data)

	wrong := o
	wrong.Settings = map[string]string{"shared_buffers": "nonsense"}
	_, err = Start(t.Context(), wrong)
	require.ErrorContains(t, err, `invalid value for parameter "shared_buffers"`)
}
