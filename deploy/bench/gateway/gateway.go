//go:build unix

// Package gateway measures Tiffin's gateway against other proxies on the same
// work, each alone on one core: forwarding, and forwarding behind an RS256
// token and a rate limit per user.
package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/bench/load"
	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Options are sizes.
type Options struct {
	Rounds, Conns, Tokens int
	Closed, Open          time.Duration
	Rate                  float64
}

// bench holds what all contenders share.
type bench struct {
	o        Options
	dir      string
	upstream int // its port
	keys     keys
	pinned   bool // the proxy has core 0, everything else core 1
}

// UpstreamArg makes this program the upstream: before the address to listen on.
const UpstreamArg = "upstream"

// body is an order as the order service answers, about 700 bytes.
var body = []byte(`{"id":"01990000-0000-7000-8000-000000000001","customer_id":"01990000-0000-7000-8000-000000000002","restaurant_id":"01900000-0000-7000-8000-000000000001","restaurant_name":"Tiffin Corner","status":"confirmed","items":[{"menu_item_id":"01900000-0000-7000-8000-000000000011","name":"Masala dosa","quantity":2,"unit_price":890,"total":1780}],"total":1780,"currency":"EUR","delivery_address":{"line1":"1 Lunch Lane","city":"Berlin","postal_code":"10115","country":"DE"},"payment_method":"pm_card_visa","notes":"ring twice","payment_deadline":"2026-11-24T12:10:00Z","created_at":"2026-11-24T12:00:00Z","updated_at":"2026-11-24T12:00:01Z"}`)

// ServeUpstream is what a program does when it was called with UpstreamArg.
func ServeUpstream(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: upstream <address>")
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return load.Serve(l, load.Answer(body))
}

// work is what is asked of a contender.
type work struct {
	title string
	token bool
	path  string
}

var works = []work{
	{title: "Plain proxying", path: "/restaurants/01900000-0000-7000-8000-000000000001"},
	{title: "RS256 token and a limit per user", token: true, path: "/orders/01990000-0000-7000-8000-000000000001"},
}

// Run measures and prints the tables.
func Run(ctx context.Context, o Options, out io.Writer, say func(string, ...any)) error {
	dir, err := os.MkdirTemp("", "tiffin-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil { // nginx's worker is another user
		return err
	}
	b := &bench{o: o, dir: dir}
	if b.keys, err = newKeys(ctx, o.Tokens, dir); err != nil {
		return err
	}
	defer b.keys.close()
	// Built before this process, and so the compilers, are held to one core.
	contenders, err := b.contenders(ctx, out)
	if err != nil {
		return err
	}
	b.pin(ctx, out)
	if b.upstream, err = freePort(); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	up, err := b.start(1, nil, exe, UpstreamArg, b.addr(b.upstream))
	if err != nil {
		return err
	}
	defer up.Stop(stopSignal, time.Second)
	if err := answers(ctx, b.addr(b.upstream), up); err != nil {
		return err
	}
	for _, w := range works {
		if err := b.compare(ctx, w, contenders, out, say); err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(w.title), err)
		}
	}
	return b.besideForgers(ctx, contenders[0], out, say)
}

// pin moves this process to core 1 and leaves core 0 to the proxy.
func (b *bench) pin(ctx context.Context, out io.Writer) {
	if runtime.NumCPU() > 1 {
		pid := strconv.Itoa(os.Getpid())
		b.pinned = exec.CommandContext(ctx, "taskset", "-a", "-p", "-c", "1", pid).Run() == nil
	}
	if !b.pinned {
		_, _ = fmt.Fprintln(out, "taskset or a second core is missing: proxies are held to one thread, not to one core")
	}
}

// start starts a program on a core, when cores can be chosen. A nil
// environment is ours.
func (b *bench) start(core int, env []string, name string, args ...string) (*proc.Process, error) {
	if b.pinned {
		name, args = "taskset", append([]string{"-c", strconv.Itoa(core), name}, args...)
	}
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Dir, cmd.Stderr = env, b.dir, os.Stderr
	return proc.Start(cmd, killSignal)
}

func (b *bench) addr(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func (b *bench) compare(ctx context.Context, w work, all []contender, out io.Writer, say func(string, ...any)) error {
	var cases []measure.Case
	for _, c := range all {
		if w.token && !c.tokens && c.name != bareName {
			_, _ = fmt.Fprintf(out, "%s verifies no RS256 tokens: left out there\n", c.name)
			continue
		}
		cases = append(cases, measure.Case{Name: c.label(w), Run: func(ctx context.Context) (measure.Result, error) { return b.one(ctx, c, w) }})
	}
	s, err := measure.Rounds(ctx, b.o.Rounds, cases, say)
	if err != nil {
		return err
	}
	title := w.title
	if w.token {
		title += fmt.Sprintf(", %d tokens", b.o.Tokens)
	}
	t := measure.Table{
		Title: title, Header: []string{
			"", "req/s on one core", "CPU µs per request", "ratio to ours",
			fmt.Sprintf("p50 ms at %.0f/s", b.o.Rate), "p99 ms", "CPU µs there", "RSS MiB",
		},
	}
	ours := s.Median(cases[0].Name, "CPU µs")
	for _, c := range cases {
		t.Add(c.Name, measure.Spread(s[c.Name]["req/s"]), measure.Number(s.Median(c.Name, "CPU µs")), measure.Ratio(s.Median(c.Name, "CPU µs")/ours),
			measure.Number(s.Median(c.Name, "p50")), measure.Spread(s[c.Name]["p99"]), measure.Number(s.Median(c.Name, "open CPU µs")), measure.Number(s.Median(c.Name, "RSS")))
	}
	t.Print(out)
	return nil
}

// one starts a contender, measures it and stops it.
func (b *bench) one(ctx context.Context, c contender, w work) (measure.Result, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := c.start(ctx, port)
	if err != nil {
		return nil, err
	}
	defer p.Stop(stopSignal, 5*time.Second)
	target := load.Target{Addr: b.addr(port), Requests: b.requests(w)}
	if err := answers(ctx, target.Addr, p); err != nil {
		return nil, err
	}
	// Connections, caches of tokens and the like are made here.
	if err := b.ready(ctx, target); err != nil {
		return nil, err
	}
	result := measure.Result{}
	cpu := func(figure string, send func() (*load.Outcome, error)) (*load.Outcome, error) {
		before, err := measure.FamilyCPU(p.Pid())
		if err != nil {
			return nil, err
		}
		o, err := send()
		if err != nil {
			return nil, err
		}
		after, err := measure.FamilyCPU(p.Pid())
		result[figure] = float64((after - before).Microseconds()) / float64(o.Requests)
		return o, err
	}
	o, err := cpu("CPU µs", func() (*load.Outcome, error) { return load.Closed(ctx, target, b.o.Conns, b.o.Closed) })
	if err != nil {
		return nil, err
	}
	result["req/s"] = float64(o.Requests) / o.Took.Seconds()
	if o, err = cpu("open CPU µs", func() (*load.Outcome, error) { return load.Open(ctx, target, b.o.Conns, b.o.Rate, b.o.Open) }); err != nil {
		return nil, err
	}
	result["p50"], result["p99"] = o.Quantile(0.5), o.Quantile(0.99)
	result["RSS"], err = measure.RSS(p.Pid())
	return result, err
}

// requests are the bytes of the work's requests: a browser's usual fields.
func (b *bench) requests(w work) [][]byte {
	head := "GET " + w.path + " HTTP/1.1\r\nHost: tiffin.local\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) bench\r\nAccept: application/json\r\nAccept-Language: en\r\n"
	if !w.token {
		return [][]byte{[]byte(head + "\r\n")}
	}
	var all [][]byte
	for _, token := range b.keys.tokens {
		all = append(all, withToken(head, token))
	}
	return all
}

func withToken(head, token string) []byte {
	return []byte(head + "Authorization: Bearer " + token + "\r\n\r\n")
}

// ready waits until the contender answers well, as it does when it has its
// keys, and warms it up.
func (b *bench) ready(ctx context.Context, t load.Target) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var last error
	err := measure.Until(ctx, func() (bool, error) {
		_, last = load.Closed(ctx, t, 1, time.Millisecond)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	_, err = load.Closed(ctx, t, b.o.Conns, time.Second)
	return err
}

// answers waits until somebody listens.
func answers(ctx context.Context, addr string, p *proc.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return measure.Until(ctx, func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("ended at once: %w", p.Err())
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, c.Close()
	})
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("no TCP address")
	}
	return addr.Port, nil
}
