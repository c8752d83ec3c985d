//go:build unix

package gateway

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/load"
	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
)

const (
	forgedTokens = 2000 // each naming a key of its own
	forgers      = 16   // at a time
	goodRate     = 1000 // requests a second of clients whose tokens are good
)

// besideForgers measures what good clients feel of forged tokens, which could
// make a gateway fetch keys for each, and of as many more good requests.
func (b *bench) besideForgers(ctx context.Context, ours contender, out io.Writer, say func(string, ...any)) error {
	w := works[1]
	var forged [][]byte
	for _, token := range b.keys.forged {
		forged = append(forged, withToken("GET "+w.path+" HTTP/1.1\r\nHost: tiffin.local\r\n", token))
	}
	var more [][]byte
	for good := b.requests(w); len(more) < forgedTokens; {
		more = append(more, good...)
	}
	with := func(name string, beside load.Target) measure.Case {
		return measure.Case{Name: name, Run: func(ctx context.Context) (measure.Result, error) { return b.beside(ctx, ours, w, beside) }}
	}
	cases := []measure.Case{
		with("good clients alone", load.Target{}),
		with(fmt.Sprintf("beside %d more good requests, %d at a time", forgedTokens, forgers), load.Target{Requests: more[:forgedTokens]}),
		with(fmt.Sprintf("beside %d forged tokens, %d at a time", forgedTokens, forgers), load.Target{Requests: forged, Status: "401"}),
	}
	s, err := measure.Rounds(ctx, b.o.Rounds, cases, say)
	if err != nil {
		return err
	}
	t := measure.Table{
		Title:  fmt.Sprintf("Tiffin beside forged tokens, good clients at %d/s", goodRate),
		Header: []string{"", "their p50 ms", "p99 ms", "to alone", "fetches of keys"},
	}
	for _, c := range cases {
		p99 := s.Median(c.Name, "p99")
		t.Add(c.Name, measure.Number(s.Median(c.Name, "p50")), measure.Spread(s[c.Name]["p99"]),
			measure.Ratio(p99/s.Median(cases[0].Name, "p99")), measure.Spread(s[c.Name]["fetches"]))
	}
	t.Print(out)
	return nil
}

// beside starts the gateway and measures good clients while somebody sends what
// is beside them.
func (b *bench) beside(ctx context.Context, ours contender, w work, beside load.Target) (measure.Result, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := ours.start(ctx, port)
	if err != nil {
		return nil, err
	}
	defer p.Stop(stopSignal, 5*time.Second)
	good := load.Target{Addr: b.addr(port), Requests: b.requests(w)}
	if err := answers(ctx, good.Addr, p); err != nil {
		return nil, err
	}
	if err := b.ready(ctx, good); err != nil {
		return nil, err
	}
	beside.Addr = good.Addr
	before := b.keys.fetches.Load()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return load.Once(ctx, beside, forgers) })
	var o *load.Outcome
	g.Go(func() (err error) {
		o, err = load.Open(ctx, good, b.o.Conns, goodRate, b.o.Open)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return measure.Result{"p50": o.Quantile(0.5), "p99": o.Quantile(0.99), "fetches": float64(b.keys.fetches.Load() - before)}, nil
}
