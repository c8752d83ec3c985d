//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// result is what came of one seed.
type result struct {
	verdict
	seed   uint64
	orders int
	steps  []string // what was done, with the time at which it was
	asked  int      // requests that were sent again
	took   time.Duration
	dir    string // kept when there are problems
}

// ways are the breakable connections of one run.
type ways struct {
	links   map[string]*link
	proxies []*proxy
}

// openWays puts something breakable between every replica and its database, and
// between every consuming service and the broker.
func openWays(ctx context.Context, o *runner.Options) (*ways, error) {
	w := &ways{links: map[string]*link{}}
	o.ServiceEnv = map[string]map[string]string{}
	for _, name := range withDatabase {
		database, err := url.Parse(o.DatabaseURL(name))
		if err != nil {
			return nil, err
		}
		for _, replica := range []string{name, name + "-2"}[:o.Replicas] {
			l := newLink()
			p := &proxy{server: net.JoinHostPort("127.0.0.1", database.Port()), choose: func(net.Conn) (*link, []byte, error) { return l, nil, nil }}
			if err := p.open(ctx); err != nil {
				return nil, err
			}
			at := *database
			at.Host = fmt.Sprintf("127.0.0.1:%d", p.port)
			o.ServiceEnv[replica] = map[string]string{"DATABASE_URL": at.String()}
			w.links[replica+linkArrow+"postgres-"+strings.TrimSuffix(name, "-service")] = l
			w.proxies = append(w.proxies, p)
		}
	}
	byService := map[string]*link{}
	for _, name := range groups {
		byService[name] = newLink()
		w.links[name+linkArrow+"kafka"] = byService[name]
	}
	p := &proxy{server: fmt.Sprintf("127.0.0.1:%d", o.BrokerPort()), choose: byClientID(byService, newLink())}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	o.BrokerAt = p.port
	w.proxies = append(w.proxies, p)
	return w, nil
}

func (w *ways) wait() {
	for _, p := range w.proxies {
		p.wg.Wait()
	}
}

// runSeed runs the platform once, breaks it as the seed says, and checks.
func runSeed(ctx context.Context, s settings, seed uint64, live io.Writer) (res *result, err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", fmt.Sprintf("tiffin-chaos-%d-", seed))
	if err != nil {
		return nil, err
	}
	res = &result{seed: seed, dir: dir}
	life, end := context.WithCancel(ctx)
	opts := s.platform
	opts.Dir = dir
	opts.Env = maps.Clone(opts.Env)
	opts.Env["ORDER_PAYMENT_DEADLINE"] = deadline(seed)
	w, err := openWays(life, &opts)
	if err != nil {
		end()
		return nil, err
	}
	defer w.wait()
	defer end()
	// What the runner has to say: a part that dies by itself is among it.
	var said lockedBuffer
	opts.Out = &said
	p, err := runner.Start(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, said.String())
	}
	defer func() {
		p.Stop()
		res.took = time.Since(began)
		if err == nil && len(res.problems) == 0 {
			// Databases that root's runs keep elsewhere go as well.
			err = runner.CleanData(context.WithoutCancel(ctx), opts)
		}
	}()
	l, err := newLoad(ctx, opts.GatewayURLs(), seed)
	if err != nil {
		return nil, err
	}
	targets := slices.Concat(p.Parts(), slices.Sorted(maps.Keys(w.links)))
	f := &faults{platform: p, ways: w, live: live}
	f.load(life, l, s.rate, newPlan(seed, s.duration, targets), s.duration)
	res.steps = f.said
	select {
	case <-p.Failed():
		return nil, fmt.Errorf("the platform gave up: %w", p.Err())
	default:
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	orders, problems := l.finish()
	c, err := openChecker(ctx, opts)
	if err != nil {
		return nil, err
	}
	defer c.close()
	v, err := c.check(ctx, orders)
	if err != nil {
		return nil, err
	}
	res.verdict, res.orders = *v, len(orders)
	res.problems = slices.Concat(f.problems, problems, res.problems, deaths(said.String()), panics(p))
	for _, n := range l.shop.trouble {
		res.asked += n
	}
	return res, nil
}

// faults carries out a plan.
type faults struct {
	platform *runner.Platform
	ways     *ways
	live     io.Writer

	mu       sync.Mutex
	began    time.Time
	said     []string
	problems []string
}

// load runs the plan while orders are placed, and mends everything at the end.
func (f *faults) load(life context.Context, l *load, rate int, plan []step, length time.Duration) {
	f.began = time.Now()
	ctx, cancel := context.WithTimeout(life, length)
	defer cancel()
	// Clients wait for some time after the last fault, no longer.
	clients, stop := context.WithTimeout(life, length+patience)
	context.AfterFunc(life, stop)
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx, clients, rate) })
	for _, s := range plan {
		wg.Go(func() {
			if wait(ctx, time.Until(f.began.Add(s.at))) == nil {
				f.do(ctx, life, s)
			}
		})
	}
	wg.Wait()
	mended, done := context.WithTimeout(life, patience)
	defer done()
	if err := f.platform.WaitReady(mended); err != nil {
		f.problems = append(f.problems, fmt.Sprintf("the platform does not come back: %v", err))
	}
	f.note("all is mended")
}

// do carries out one step and mends what it broke, at the latest when the plan ends.
func (f *faults) do(plan, life context.Context, s step) {
	p := f.platform
	var breaks, mends func() error
	switch s.do {
	case kill:
		breaks = func() error { return p.Kill(s.on) }
	case restart:
		breaks = func() error { return p.Restart(life, s.on) }
	case down:
		breaks = func() error { return p.KillPart(s.on) }
		mends = func() error { return p.StartPart(life, s.on) }
	case pause:
		breaks = func() error { return p.Pause(s.on) }
		mends = func() error { return p.Resume(s.on) }
	default:
		breaks = func() error { f.ways.links[s.on].set(s.do); return nil }
		mends = func() error { f.ways.links[s.on].set(""); return nil }
	}
	f.note("%s", s)
	if err := breaks(); err != nil {
		f.note("%s: %v", s.on, err)
		return
	}
	if mends == nil {
		return
	}
	_ = wait(plan, s.lasts)
	f.note("%s is mended", s.on)
	if err := mends(); err != nil {
		f.note("%s: %v", s.on, err)
	}
}

func (f *faults) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := fmt.Sprintf("%s (%7.3fs)  ", time.Now().UTC().Format("15:04:05.000"), time.Since(f.began).Seconds()) + fmt.Sprintf(format, args...)
	f.said = append(f.said, line)
	_, _ = fmt.Fprintln(f.live, line)
}

// deaths are those of our services that no step asked for. A database or broker
// may need a second try to start after kill -9.
func deaths(said string) []string {
	var list []string
	for line := range strings.SplitSeq(said, "\n") {
		part, what, _ := strings.Cut(line, "│")
		if part = strings.TrimSpace(part); strings.Contains(what, "starting it again") && part != "kafka" && !strings.HasPrefix(part, "postgres-") {
			list = append(list, part+" died by itself")
		}
	}
	return list
}

// panics are lines in the services' logs that should never be there.
func panics(p *runner.Platform) []string {
	var list []string
	for _, part := range p.Parts() {
		text, err := os.ReadFile(p.LogFile(part))
		if err != nil {
			list = append(list, err.Error())
		}
		for line := range bytes.Lines(text) {
			if bytes.Contains(line, []byte("panic")) || bytes.HasPrefix(line, []byte("fatal error:")) {
				list = append(list, filepath.Base(p.LogFile(part))+": "+string(bytes.TrimSpace(line)))
			}
		}
	}
	return list
}

// lockedBuffer is written to by many parts.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

var errViolated = errors.New("what must hold does not")
