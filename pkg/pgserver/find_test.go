//go:build unix

package pgserver

import (
	"archive/tar"
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// finder looks in path only and downloads from mirror.
func finder(t *testing.T, path, mirror string) Finder {
	t.Helper()
	id, err := Unprivileged()
	require.NoError(t, err)
	return Finder{
		Identity: id, cache: t.TempDir(),
		Getenv: func(name string) string {
			return map[string]string{"PATH": path, "TIFFIN_POSTGRES_BIN": path, "TIFFIN_POSTGRES_MIRROR": mirror}[name]
		},
	}
}

// fake makes a directory with programs of these texts, open to every user.
func fake(t *testing.T, programs map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgserver-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, text := range programs {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	}
	return dir
}

func TestWhatCannotBeRunIsNamedWithItsReason(t *testing.T) {
	t.Parallel()
	show := `echo "share_path=/nowhere"`
	for name, c := range map[string]struct {
		programs map[string]string
		want     string
	}{
		"too old":    {map[string]string{"postgres": `echo "postgres (PostgreSQL) 14.11 (Debian)"`}, "version 14.11 is too old, 15 or newer is needed"},
		"no initdb":  {map[string]string{"postgres": `echo "postgres (PostgreSQL) 16.1"`}, "there is no initdb"},
		"not it":     {map[string]string{"postgres": `echo hello`}, `postgres --version says "hello", which is no PostgreSQL`},
		"broken":     {map[string]string{"postgres": `echo "libpq.so.5: not found" >&2; exit 127`}, "postgres --version: libpq.so.5: not found"},
		"incomplete": {map[string]string{"postgres": `echo "postgres (PostgreSQL) 16.1"`, "initdb": show}, "incomplete installation: stat /nowhere/postgres.bki"},
		"none":       {nil, "there is no postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := fake(t, c.programs)
			_, err := finder(t, dir, "").Find(t.Context())
			require.ErrorContains(t, err, "TIFFIN_POSTGRES_BIN="+dir+": "+c.want)
		})
	}
}

func TestClosedDirectoryIsPassedOver(t *testing.T) {
	t.Parallel()
	f := finder(t, "", "")
	if !f.Identity.drop {
		t.Log("not root: PostgreSQL runs as this user, which may enter its own directories")
		return
	}
	dir := fake(t, map[string]string{"postgres": `echo "postgres (PostgreSQL) 16.1"`})
	require.NoError(t, os.Chmod(dir, 0o700))
	_, err := f.check(t.Context(), dir)
	require.EqualError(t, err, "user nobody may not run postgres")
	require.False(t, f.Identity.CanEnter(t.Context(), dir))
}

// nothing is a PATH without PostgreSQL; what the usual places hold is skipped.
func nothing(t *testing.T, mirror string) Finder {
	f := finder(t, download, mirror)
	return f
}

func TestDownloadErrorsNameCauseAndFixes(t *testing.T) {
	t.Parallel()
	answering := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := "http://" + l.Addr().String()
	require.NoError(t, l.Close())
	for name, c := range map[string]struct{ mirror, want string }{
		"missing": {answering(http.StatusNotFound, ""), "answers 404 Not Found"},
		"changed": {answering(http.StatusOK, "<html>log in</html>"), "a proxy or mirror changed it"},
		"closed":  {closed, "cannot be reached: a firewall? set HTTPS_PROXY or TIFFIN_POSTGRES_MIRROR"},
		"dns":     {"http://mirror.invalid", "(DNS: no network, or the name is only known to a proxy: set HTTPS_PROXY)"},
		"no URL":  {"nonsense", "TIFFIN_POSTGRES_MIRROR=nonsense must be a Maven repository such as https://"},
		"ca":      {tls.URL, "(CA: a proxy presents its own certificate: let SSL_CERT_FILE name its CA)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := nothing(t, c.mirror).Find(t.Context())
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "no PostgreSQL 15 or newer to run:\n  TIFFIN_POSTGRES_BIN=download: what is installed was not looked at\n")
			require.ErrorContains(t, err, "set TIFFIN_POSTGRES_BIN to the directory that holds postgres and initdb")
		})
	}
}

func TestDownloadEndsWithContext(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := nothing(t, s.URL).Find(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestUnpackStaysInItsDirectory(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"../out", "/etc/out", "link/out"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if name == "link/out" {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}))
		}
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}))
		require.NoError(t, w.Close())
		require.Error(t, unpack(&b, t.TempDir()), name)
	}
}

func TestLockIsExclusiveAndHearsItsContext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = Lock(ctx, path)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = Lock(t.Context(), path)
	require.NoError(t, err)
	unlock()
}
