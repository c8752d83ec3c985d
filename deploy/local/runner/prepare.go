//go:build unix

package runner

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/kafkaserver"
	"github.com/tiffin-platform/tiffin/pkg/pgserver"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// prepared is everything that must be there before the first part starts.
type prepared struct {
	bin      string // directory of our binaries
	pg       pgserver.Binaries
	identity pgserver.Identity
	pgDir    string // holds one data directory per server
	kafka    kafkaserver.Install
}

// runnerBinary is this program itself, which is also the embedded broker.
const runnerBinary = "local"

// prepare builds and finds, all at once, and prints how long each took.
func prepare(ctx context.Context, o Options, c *console) (prepared, error) {
	p := prepared{bin: filepath.Join(o.Dir, "bin")}
	var err error
	if p.identity, err = pgserver.Unprivileged(); err != nil {
		return p, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return build(ctx, o, p.bin, c) })
	g.Go(func() error {
		began := time.Now()
		finder := pgserver.Finder{Getenv: o.getenv, Identity: p.identity, Progress: func(line string) { c.say("%s", line) }}
		var err error
		if p.pg, err = finder.Find(ctx); err != nil {
			return err
		}
		c.say("PostgreSQL %s from %s (%.1fs, of it download %.1fs)", p.pg.Version, p.pg.Dir, time.Since(began).Seconds(), p.pg.Download.Seconds())
		if p.pgDir, err = dataDir(ctx, o, p.identity, p.pg.Major); err != nil {
			return err
		}
		return initData(ctx, o, p, c)
	})
	if o.RealKafka {
		g.Go(func() error {
			var err error
			p.kafka, err = kafkaserver.Find(ctx, func(line string) { c.say("%s", line) })
			return err
		})
	}
	return p, g.Wait()
}

// build compiles what is going to run. In the workspace one go command does
// all; without it each module is built for itself.
func build(ctx context.Context, o Options, bin string, c *console) error {
	began := time.Now()
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	modules, packages := []string{"deploy"}, []string{"./local"}
	for _, s := range services {
		if !o.skips(s.name) {
			modules, packages = append(modules, s.name), append(packages, ".")
		}
	}
	c.say("building %s", strings.Join(modules[1:], ", "))
	done := make(chan struct{})
	defer close(done)
	go func() {
		tick := time.NewTicker(15 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				c.say("still building, %.0fs (the first time compiles everything)", time.Since(began).Seconds())
			}
		}
	}()
	out, err := exec.CommandContext(ctx, "go", "-C", o.Root, "env", "GOWORK").Output()
	if err != nil {
		return fmt.Errorf("go env GOWORK: %w", err)
	}
	if work := strings.TrimSpace(string(out)); work != "" && work != "off" {
		var all []string
		for i, module := range modules {
			all = append(all, "./"+filepath.Join(module, packages[i]))
		}
		if err := goBuild(ctx, o.Root, bin, all...); err != nil {
			return err
		}
	} else {
		for i, module := range modules {
			if err := goBuild(ctx, filepath.Join(o.Root, module), bin, packages[i]); err != nil {
				return err
			}
		}
	}
	c.say("built in %.1fs", time.Since(began).Seconds())
	return nil
}

// goBuild puts each package's program into bin, named after its folder.
func goBuild(ctx context.Context, dir, bin string, packages ...string) error {
	// What version control says is of no interest here, and asking it fails
	// where the repository belongs to somebody else.
	args := append([]string{"build", "-buildvcs=false", "-o", bin + string(filepath.Separator)}, packages...)
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := wait(ctx, cmd); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("go build in %s: %w\n%s", dir, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// wait runs a command that ends with us, as the parts do.
func wait(ctx context.Context, cmd *exec.Cmd) error {
	p, err := proc.Start(cmd, syscall.SIGTERM)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		// To its compilers and linkers too: it does not wait for them.
		_ = syscall.Kill(-p.Pid(), syscall.SIGINT)
		p.Stop(syscall.SIGINT, 5*time.Second)
	case <-p.Done():
	}
	return p.Err()
}

// dataDir returns the directory of the PostgreSQL data of one major version:
// another major refuses it. It is in Dir where the user of PostgreSQL can get
// there, else in the cache directory.
func dataDir(ctx context.Context, o Options, id pgserver.Identity, major int) (string, error) {
	name := "postgres-" + strconv.Itoa(major)
	dir := filepath.Join(o.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	if id.CanEnter(ctx, dir) {
		return dir, nil
	}
	// A temporary directory is closed to everybody else: let others pass
	// through ours, if that is all that is in the way.
	if info, err := os.Stat(o.Dir); err == nil && info.Mode().Perm()&0o001 == 0 {
		if err := os.Chmod(o.Dir, info.Mode().Perm()|0o111); err == nil && id.CanEnter(ctx, dir) {
			return dir, nil
		}
	}
	if err := os.Remove(dir); err != nil {
		return "", err
	}
	dir, err := outsideDir(o, id)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// outsideDir is where data goes that cannot be in Dir.
func outsideDir(o Options, id pgserver.Identity) (string, error) {
	cache, err := pgserver.CacheDir(id)
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "data"+strings.ReplaceAll(o.Dir, string(filepath.Separator), "_")), nil
}

// initData makes the data directories that are missing, as copies of one: that
// takes a fifth of the time of another initdb.
func initData(ctx context.Context, o Options, p prepared, c *console) error {
	var missing []string
	for _, s := range services {
		if s.postgres == "" || o.skips(s.postgres) {
			continue
		}
		if _, err := os.Stat(filepath.Join(p.pgDir, s.postgres, "PG_VERSION")); err != nil {
			missing = append(missing, s.postgres)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	began := time.Now()
	pristine := pgserver.Options{
		Binaries: p.pg, Identity: p.identity, Data: filepath.Join(p.pgDir, "pristine"), User: "tiffin", Password: "tiffin",
	}
	if err := pgserver.Init(ctx, pristine); err != nil {
		return err
	}
	for _, name := range missing {
		to := filepath.Join(p.pgDir, name)
		if err := pgserver.CopyData(p.identity, pristine.Data, to); err != nil {
			return err
		}
	}
	c.say("%s made in %.1fs", plural(len(missing), "database directory", "database directories"), time.Since(began).Seconds())
	return nil
}

// stopStrays ends what a run left behind whose death the kernel did not pass on.
func stopStrays(o Options, p prepared, c *console) {
	files, _ := filepath.Glob(filepath.Join(o.Dir, "run", "*.pid"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		number, marker, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if pid, err := strconv.Atoi(number); err == nil && marker != "" && proc.StopStray(pid, marker, syscall.SIGTERM, 3*time.Second) {
			c.say("stopped process %d (%s), left behind by an earlier run", pid, filepath.Base(file))
		}
		_ = os.Remove(file)
	}
	for _, s := range services {
		if s.postgres != "" && p.pgDir != "" && pgserver.StopStray(filepath.Join(p.pgDir, s.postgres)) {
			c.say("stopped %s, left behind by an earlier run", s.postgres)
		}
	}
}

// CleanData removes everything of a run: data, logs and binaries.
func CleanData(ctx context.Context, o Options) error {
	o, err := o.complete()
	if err != nil {
		return err
	}
	if _, err := os.Stat(o.Dir); err != nil {
		return nil
	}
	unlock, err := lockDir(ctx, o)
	if err != nil {
		return err
	}
	defer unlock()
	id, err := pgserver.Unprivileged()
	if err != nil {
		return err
	}
	stopStrays(o, prepared{}, newConsole(o.Out, false, "", o.getenv))
	if outside, err := outsideDir(o, id); err == nil {
		_ = os.RemoveAll(outside)
	}
	return os.RemoveAll(o.Dir)
}

// lockDir makes sure that one runner at a time uses Dir.
func lockDir(ctx context.Context, o Options) (func(), error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", o.Dir, err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	unlock, err := pgserver.Lock(short, filepath.Join(o.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("another runner uses %s: stop it, or set TIFFIN_PORT_OFFSET=10000 to run beside it", o.Dir)
	}
	return unlock, nil
}
