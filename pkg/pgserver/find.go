//go:build unix

// Package pgserver finds or fetches PostgreSQL and runs real servers of it,
// for the local runner and for tests, without Docker and without root.
package pgserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// Binaries is an installation that the Identity it was found for can run.
type Binaries struct {
	Dir     string // holds postgres and initdb
	Version string // such as 15.18
	Major   int
	// Download is how long the one-time download took, zero when there was none.
	Download time.Duration
}

// Finder looks for PostgreSQL.
type Finder struct {
	// Getenv reads TIFFIN_POSTGRES_BIN (the directory to use and no other, or
	// "download" to skip what is installed) and TIFFIN_POSTGRES_MIRROR (a Maven
	// repository instead of Maven Central).
	Getenv func(string) string
	// Progress gets a line per step of a download.
	Progress func(line string)
	Identity Identity

	cache string // instead of CacheDir, for tests
}

// download as TIFFIN_POSTGRES_BIN stands for: use none that is installed.
const download = "download"

// Find returns PostgreSQL 15 or newer: the one in TIFFIN_POSTGRES_BIN, else
// one from PATH and the usual places, else the downloaded one. What was found
// and not used is named in the error when nothing is left.
func (f Finder) Find(ctx context.Context) (Binaries, error) {
	var reasons []string
	switch dir := f.Getenv("TIFFIN_POSTGRES_BIN"); dir {
	case "":
		for _, dir := range candidates(f.Getenv("PATH")) {
			b, err := f.check(ctx, dir)
			if err == nil {
				return b, nil
			}
			reasons = append(reasons, dir+": "+err.Error())
		}
	case download:
		reasons = []string{"TIFFIN_POSTGRES_BIN=download: what is installed was not looked at"}
	default:
		b, err := f.check(ctx, dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("TIFFIN_POSTGRES_BIN=%s: %w", dir, err)
		}
		return b, nil
	}
	b, err := f.fetch(ctx)
	if err == nil {
		return b, nil
	}
	if ctx.Err() != nil {
		return Binaries{}, ctx.Err()
	}
	if len(reasons) == 0 {
		reasons = []string{"none is installed in PATH or in the usual places"}
	}
	return Binaries{}, fmt.Errorf("no PostgreSQL %d or newer to run:\n  %s\n  download: %w\nOne of these helps:\n"+
		"  - install it: apt-get install postgresql | dnf install postgresql-server | apk add postgresql | brew install postgresql\n"+
		"  - set TIFFIN_POSTGRES_BIN to the directory that holds postgres and initdb\n"+
		"  - give the download a way: HTTPS_PROXY for a proxy, SSL_CERT_FILE for its certificate,\n"+
		"    TIFFIN_POSTGRES_MIRROR for a Maven mirror",
		postgres.MinVersion, strings.Join(reasons, "\n  "), err)
}

// candidates lists directories that hold a postgres, best first: what PATH and
// pg_config choose, then the newest of the usual places.
func candidates(path string) []string {
	var dirs []string
	add := func(dir string) {
		// What PATH holds is often a link into the installation, and initdb
		// looks for the files beside it.
		if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			dirs = append(dirs, filepath.Dir(real))
			if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
				dirs = append(dirs, dir) // a wrapper script of its own kind
			}
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) {
			add(dir)
		}
	}
	for _, dir := range filepath.SplitList(path) {
		tool := filepath.Join(dir, "pg_config")
		if !filepath.IsAbs(tool) {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		out, err := exec.CommandContext(ctx, tool, "--bindir").Output() //nolint:gosec // named pg_config, in PATH
		cancel()
		if err == nil {
			add(strings.TrimSpace(string(out)))
		}
	}
	var usual []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/lib64/pgsql/bin", "/usr/pgsql-*/bin", "/usr/libexec/postgresql*",
		"/usr/lib/postgresql*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin", "/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/opt/local/lib/postgresql*/bin", "/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		usual = append(usual, found...)
	}
	slices.SortStableFunc(usual, func(a, b string) int { return cmp.Compare(lastNumber(b), lastNumber(a)) })
	for _, dir := range usual {
		add(dir)
	}
	var unique []string
	for _, dir := range dirs {
		if !slices.Contains(unique, dir) {
			unique = append(unique, dir)
		}
	}
	return unique
}

var number = regexp.MustCompile(`\d+`)

func lastNumber(path string) int {
	all := number.FindAllString(path, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^\s]*)`)

// check runs what is in dir as the user that will run it. An installation that
// is too old, incomplete or closed to that user is an error with the reason.
func (f Finder) check(ctx context.Context, dir string) (Binaries, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := f.output(ctx, filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return Binaries{}, err
	}
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return Binaries{}, fmt.Errorf("postgres --version says %q, which is no PostgreSQL", strings.TrimSpace(out))
	}
	major, _ := strconv.Atoi(m[2])
	if major < postgres.MinVersion {
		return Binaries{}, fmt.Errorf("version %s is too old, %d or newer is needed", m[1], postgres.MinVersion)
	}
	// --show makes initdb find its postgres, of the same version, and its share files.
	out, err = f.output(ctx, filepath.Join(dir, "initdb"), "--show", "--pgdata=/nonexistent")
	if err != nil {
		return Binaries{}, err
	}
	for line := range strings.SplitSeq(out, "\n") {
		if share, ok := strings.CutPrefix(strings.TrimSpace(line), "share_path="); ok {
			if _, err := os.Stat(filepath.Join(share, "postgres.bki")); err != nil {
				return Binaries{}, fmt.Errorf("incomplete installation: %w", err)
			}
		}
	}
	return Binaries{Dir: dir, Version: m[1], Major: major}, nil
}

// output runs a program in / as the user and returns all it wrote.
func (f Finder) output(ctx context.Context, path string, args ...string) (string, error) {
	out, err := f.Identity.command(ctx, "/", path, args...).CombinedOutput()
	if err == nil {
		return string(out), nil
	}
	name := filepath.Base(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("there is no %s", name)
	case errors.Is(err, os.ErrPermission):
		return "", fmt.Errorf("user %s may not run %s", f.Identity.Name, name)
	case strings.Contains(string(out), "could not look up effective user ID"):
		return "", fmt.Errorf("PostgreSQL asks for the name of its user, and uid %d has none: add it to /etc/passwd or run this as another user", f.Identity.UID)
	case len(out) > 0:
		return "", fmt.Errorf("%s %s: %s", name, args[0], strings.TrimSpace(string(out)))
	}
	return "", fmt.Errorf("%s %s: %w", name, args[0], err)
}
