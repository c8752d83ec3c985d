//go:build unix

package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Identity is the user that PostgreSQL runs as. It refuses to run as root, so
// root runs it as an unprivileged user.
type Identity struct {
	Name     string
	UID, GID int
	drop     bool // whether this process must change to it
}

// Unprivileged returns the user to run PostgreSQL as: the current one, or
// nobody (else postgres) for root.
func Unprivileged() (Identity, error) {
	if uid := os.Geteuid(); uid != 0 {
		return Identity{Name: "uid " + strconv.Itoa(uid), UID: uid, GID: os.Getegid()}, nil
	}
	for _, name := range []string{"nobody", "postgres"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return Identity{Name: name, UID: uid, GID: gid, drop: true}, nil
		}
	}
	return Identity{}, errors.New("PostgreSQL does not run as root, and there is no user nobody or postgres to run it as: " +
		"run this as another user, or add one of the two")
}

// command is like exec.Command, as this user, in dir, with an environment that
// holds nothing of the caller's (no PG* variables, no locale that is missing).
func (id Identity) command(ctx context.Context, dir, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...) //nolint:gosec // the path is what was found
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=/"}
	if id.drop {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
			Uid: uint32(id.UID), Gid: uint32(id.GID),
		}}
	}
	cmd.WaitDelay = time.Second
	return cmd
}

// own gives path to the user, for its eyes only.
func (id Identity) own(path string) error {
	if id.drop {
		if err := os.Chown(path, id.UID, id.GID); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o700) //nolint:gosec // a directory
}

// CanEnter reports whether the user can work in dir, which exists. Root's home
// and private temp directories are closed to others.
func (id Identity) CanEnter(ctx context.Context, dir string) bool {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return true // the next step tells
	}
	return id.command(ctx, dir, sh, "-c", "cd .").Run() == nil
}

// CacheDir returns a directory of ours that survives restarts and that the
// user of PostgreSQL can enter: the user's cache directory, or one under
// /var/tmp where that is closed to it, as root's is.
func CacheDir(id Identity) (string, error) {
	if !id.drop {
		if base, err := os.UserCacheDir(); err == nil {
			dir := filepath.Join(base, "tiffin")
			if err := os.MkdirAll(dir, 0o755); err == nil { //nolint:gosec // entered by another user
				return dir, nil
			}
		}
	}
	dir := filepath.Join("/var/tmp", "tiffin-"+strconv.Itoa(os.Geteuid()))
	return dir, privateDir(dir)
}

// privateDir makes dir, or makes sure that nobody else made it: in a directory
// that all may write to, another user could otherwise give us their binaries.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // entered by another user
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s exists and is not a directory of this user: remove it", dir)
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // whatever the umask was; entered by another user
}
