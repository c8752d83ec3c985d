//go:build unix

package saga

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
)

// rate is that of an open loop, in orders per second.
type rate struct {
	name string
	now  func() float64
}

func (b *bench) rates() (list []rate) {
	for _, fixed := range b.o.Rates {
		list = append(list, rate{measure.Number(fixed) + " orders/s", func() float64 { return fixed }})
	}
	if len(list) > 0 {
		return list
	}
	for _, part := range []float64{0.5, 0.8} {
		list = append(list, rate{fmt.Sprintf("%.0f %% of saturation", 100*part), func() float64 { return part * b.most }})
	}
	return list
}

// atRates are runs at fixed rates, of the saga and of its bare commits.
func (b *bench) atRates() (cases []measure.Case) {
	for _, r := range b.rates() {
		cases = append(cases,
			measure.Case{Name: "saga, " + r.name, Run: func(ctx context.Context) (measure.Result, error) { return b.paced(ctx, r.now()) }},
			measure.Case{Name: "bare commits, " + r.name, Run: func(ctx context.Context) (measure.Result, error) { return b.barePaced(ctx, r.now()) }})
	}
	return cases
}

// latencies prints those of the runs at fixed rates, and where the saga's come
// from.
func (b *bench) latencies(s measure.Series, cases []measure.Case, out io.Writer) {
	t := measure.Table{
		Title:  fmt.Sprintf("Orders at a fixed rate for %s, open loop, ms from when each was due", b.o.Open),
		Header: []string{"", "orders/s", "POST p50", "p99", "paid and notified p50", "p99", "CPU ms per order", "machine busy", "by others"},
	}
	way := measure.Table{
		Title:  "The way there, median ms since the order's transaction, by the rows' own clocks",
		Header: append([]string{""}, stages...),
	}
	for _, c := range cases {
		t.Add(c.Name, measure.Number(s.Median(c.Name, "rate")), measure.Number(s.Median(c.Name, "post p50")), measure.Number(s.Median(c.Name, "post p99")),
			measure.Number(s.Median(c.Name, "done p50")), measure.Spread(s[c.Name]["done p99"]), measure.Number(s.Median(c.Name, "CPU ms")),
			fmt.Sprintf("%.0f %%", s.Median(c.Name, "busy")), fmt.Sprintf("%.0f %%", s.Median(c.Name, "others")))
		if len(s[c.Name][stages[0]]) == 0 {
			continue // bare commits have none
		}
		row := []string{c.Name}
		for _, stage := range stages {
			row = append(row, measure.Number(s.Median(c.Name, stage)))
		}
		way.Add(row...)
	}
	t.Print(out)
	way.Print(out)
}

// paced places orders at a fixed rate.
func (b *bench) paced(ctx context.Context, rate float64) (measure.Result, error) {
	n := int(rate * b.o.Open.Seconds())
	var l *timing
	result := measure.Result{"rate": rate}
	err := spend(ctx, b.usage, n, result, func() (err error) {
		l, err = b.c.openLoop(ctx, rate, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	quantiles(&l.post, &l.done, result)
	return result, b.db.way(ctx, l.ids, result)
}

// barePaced commits the rows of orders at a fixed rate, each order's commits one
// after the other: the latencies that the saga would have if it did nothing
// else.
func (b *bench) barePaced(ctx context.Context, rate float64) (measure.Result, error) {
	if err := b.db.shadow(ctx); err != nil {
		return nil, err
	}
	n := min(int(rate*b.o.Open.Seconds()), len(b.last))
	var post, done measure.Latencies
	result := measure.Result{"rate": rate}
	err := spend(ctx, b.bareUse, n, result, func() error {
		g, gctx := errgroup.WithContext(ctx)
		measure.Pace(gctx, rate, n, func(i int, due time.Time) {
			g.Go(func() error {
				order := b.last[i : i+1]
				if err := b.repeat(gctx, order, steps[:1]); err != nil {
					return err
				}
				post.Add(time.Since(due))
				if err := b.repeat(gctx, order, steps[1:awaited]); err != nil {
					return err
				}
				done.Add(time.Since(due))
				return b.repeat(gctx, order, steps[awaited:])
			})
		})
		return g.Wait()
	})
	quantiles(&post, &done, result)
	return result, err
}

func quantiles(post, done *measure.Latencies, result measure.Result) {
	result["post p50"], result["post p99"] = post.Quantile(0.5), post.Quantile(0.99)
	result["done p50"], result["done p99"] = done.Quantile(0.5), done.Quantile(0.99)
}

// spend runs n orders and adds what each of them took of the processors, how
// busy these were, and how much of that is the work of neither the platform nor
// this program.
func spend(ctx context.Context, usage func(context.Context) (use, error), n int, result measure.Result, run func() error) error {
	// What the measured parts have used, the same with this program, and all.
	read := func() (parts, ours, all time.Duration, err error) {
		u, err := usage(ctx)
		if err != nil {
			return 0, 0, 0, err
		}
		parts = u.allCPU()
		ours = parts
		if _, counted := u.cpu[itself]; !counted {
			own, err := measure.CPU(os.Getpid())
			if err != nil {
				return 0, 0, 0, err
			}
			ours += own
		}
		all, err = measure.Machine()
		return parts, ours, all, err
	}
	began := time.Now()
	parts, ours, all, err := read()
	if err != nil {
		return err
	}
	if err := run(); err != nil {
		return err
	}
	parts1, ours1, all1, err := read()
	if err != nil {
		return err
	}
	whole := time.Since(began).Seconds() * float64(runtime.NumCPU()) / 100
	result["CPU ms"] = measure.Millis(parts1-parts) / float64(n)
	result["busy"] = (all1 - all).Seconds() / whole
	result["others"] = ((all1 - all) - (ours1 - ours)).Seconds() / whole
	return nil
}
