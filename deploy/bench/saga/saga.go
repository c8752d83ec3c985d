//go:build unix

// Package saga measures whole orders: placed through the gateway, charged,
// confirmed, and told to the customer, on the platform as the local runner
// starts it. The customers' own streams of notifications say when.
package saga

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// Options are sizes.
type Options struct {
	Rounds, Orders, Clients, Users int
	Open                           time.Duration
	// Rates of the open loops in orders per second; half and four fifths of the
	// last rate at saturation when empty.
	Rates []float64
}

// bench is a running platform with its customers.
type bench struct {
	p  *runner.Platform
	o  Options
	c  *crowd
	db databases
	// Of the last run at saturation: its orders, which the bare commits repeat, and
	// how many there were per second.
	last []string
	most float64
}

// settings of the services for the run: no rate limits, and no line per
// request, which the runner would have to read and write again.
var settings = map[string]string{
	"RATE_LIMIT_IP": "off", "RATE_LIMIT_USER": "off", "RATE_LIMIT_LOGIN": "off", "LOG_LEVEL": "warn",
}

// Run starts a platform of its own, measures it and prints the tables.
func Run(ctx context.Context, platform runner.Options, o Options, out io.Writer, say func(string, ...any)) error {
	dir, err := os.MkdirTemp("", "tiffin-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if platform.Root, err = root(); err != nil {
		return err
	}
	platform.Dir, platform.Env = dir, settings
	p, err := runner.Start(ctx, platform)
	if err != nil {
		return err
	}
	defer p.Stop()
	b := &bench{p: p, o: o}
	if b.db, err = openDatabases(ctx, p.Options); err != nil {
		return err
	}
	defer b.db.close()
	if b.c, err = newCrowd(ctx, p.GatewayURL(), o.Users); err != nil {
		return err
	}
	defer b.c.close()
	say("%d customers watch their streams; warming up", o.Users)
	if _, err := b.saturate(ctx, min(500, o.Orders)); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	return b.measure(ctx, out, say)
}

// root is the repository: this module's folder is two below it.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "local", "main.go")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("run this inside the repository")
}

const (
	saturated = "saga, saturated"
	bareOne   = "bare commits, one per step"
	bareMany  = "bare commits, the events of 8 orders in one"
)

// measure interleaves all runs. What is a part of saturation is one of the last
// run at saturation: on a machine whose speed changes, another half is no half.
func (b *bench) measure(ctx context.Context, out io.Writer, say func(string, ...any)) error {
	atSaturation := []measure.Case{
		{Name: saturated, Run: func(ctx context.Context) (measure.Result, error) { return b.saturate(ctx, b.o.Orders) }},
		{Name: bareOne, Run: func(ctx context.Context) (measure.Result, error) { return b.bare(ctx, 1) }},
		{Name: bareMany, Run: func(ctx context.Context) (measure.Result, error) { return b.bare(ctx, 8) }},
	}
	atRates := b.atRates()
	cases := slices.Concat(atSaturation[:1], atRates, atSaturation[1:])
	s, err := b.rounds(ctx, cases, say)
	if err != nil {
		return err
	}
	t := measure.Table{
		Title:  fmt.Sprintf("Whole orders at saturation: %d orders, %d clients", b.o.Orders, b.o.Clients),
		Header: []string{"", "orders/s", "CPU ms per order", "orders per CPU second", "of bare, one per step", "commits per order"},
	}
	ref := s.Median(bareOne, "CPU ms")
	for _, c := range atSaturation {
		cpu := s.Median(c.Name, "CPU ms")
		t.Add(c.Name, measure.Spread(s[c.Name]["orders/s"]), measure.Number(cpu), measure.Number(1000/cpu),
			fmt.Sprintf("%.0f %%", 100*ref/cpu), measure.Number(s.Median(c.Name, "commits")))
	}
	t.Print(out)
	b.byProcess(s, out)
	b.latencies(s, atRates, out)
	return nil
}

// rounds interleaves the cases. Each begins with databases that are vacuumed,
// analyzed and checkpointed, and with nothing for the system to write back: it
// pays for its own upkeep and not for that of the run before it.
func (b *bench) rounds(ctx context.Context, cases []measure.Case, say func(string, ...any)) (measure.Series, error) {
	for i, c := range cases {
		cases[i].Run = func(ctx context.Context) (measure.Result, error) {
			if err := b.db.upkeep(ctx); err != nil {
				return nil, err
			}
			syscall.Sync()
			return c.Run(ctx)
		}
	}
	return measure.Rounds(ctx, b.o.Rounds, cases, say)
}

// byProcess prints where the processor time of an order goes.
func (b *bench) byProcess(s measure.Series, out io.Writer) {
	t := measure.Table{Title: "CPU and commits of an order at saturation, by process", Header: []string{"", "CPU ms", "commits"}}
	for _, part := range b.p.Parts() {
		t.Add(part, measure.Number(s.Median(saturated, "cpu "+part)), measure.Number(s.Median(saturated, "commits "+part)))
	}
	t.Print(out)
}

// saturate places n orders from as many clients as there are, each with the
// next order as soon as the last was accepted, and waits until all are paid and
// notified. Orders per second count to that end.
func (b *bench) saturate(ctx context.Context, n int) (measure.Result, error) {
	before, err := b.usage(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	orders, err := b.c.closedLoop(ctx, n, b.o.Clients)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := b.usage(ctx)
	if err != nil {
		return nil, err
	}
	b.last, b.most = orders, float64(n)/took.Seconds()
	result := measure.Result{"orders/s": b.most}
	for _, part := range b.p.Parts() {
		cpu := measure.Millis(after.cpu[part]-before.cpu[part]) / float64(n)
		result["cpu "+part] = cpu
		result["CPU ms"] += cpu
		if commits, ok := after.commits[part]; ok {
			each := float64(commits-before.commits[part]) / float64(n)
			result["commits "+part] = each
			result["commits"] += each
		}
	}
	return result, nil
}

// use is what every part has used up to now.
type use struct {
	cpu     map[string]time.Duration
	commits map[string]int64
}

// itself is this program as a part.
const itself = "bench"

func (u use) allCPU() (sum time.Duration) {
	for _, cpu := range u.cpu {
		sum += cpu
	}
	return sum
}

func (u use) allCommits() (sum int64) {
	for _, n := range u.commits {
		sum += n
	}
	return sum
}

func (b *bench) usage(ctx context.Context) (use, error) {
	u := use{cpu: map[string]time.Duration{}, commits: map[string]int64{}}
	for _, part := range b.p.Parts() {
		cpu, err := measure.FamilyCPU(b.p.Pid(part))
		if err != nil {
			return u, fmt.Errorf("%s: %w", part, err)
		}
		u.cpu[part] = cpu
		if i := slices.Index(servers, part); i >= 0 {
			if u.commits[part], err = writes(ctx, b.db[i]); err != nil {
				return u, err
			}
		}
	}
	return u, nil
}
