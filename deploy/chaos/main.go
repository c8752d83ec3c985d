//go:build unix

// Command chaos runs the whole platform under load while it kills, stops and
// restarts its parts and breaks the connections between them, as a plan says
// that follows from a seed. Then it mends everything, waits for all sagas to
// end and checks that nothing was lost, done twice, done in the wrong order or
// left behind.
//
//	make chaos                         20 s of one random seed
//	make chaos SEED=4711 DURATION=60s  the plan of a seed again
//	make chaos SEEDS=20 DURATION=60s   twenty seeds, a line each
//
// What is broken, and when, is repeatable; the interleaving of what that meets
// is not: a seed that failed may need a few runs to fail again.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
	"github.com/tiffin-platform/tiffin/pkg/env"
)

// settings of a command.
type settings struct {
	seed     uint64
	seeds    int
	duration time.Duration
	rate     int // orders per second
	platform runner.Options
}

// defaults of the platform's own settings: beside a `make run`, two replicas of
// every service.
var defaults = map[string]string{"TIFFIN_PORT_OFFSET": "15000", "REPLICAS": "2"}

func loadSettings(getenv func(string) string) (settings, error) {
	r := env.New(getenv)
	s := settings{
		seeds:    r.Int("SEEDS", 1, 1, 10_000),
		duration: r.Duration("DURATION", 20*time.Second, time.Second, 10*time.Minute), // access tokens last 15 minutes
		rate:     r.Int("RATE", 40, 1, 1000),
	}
	if text := r.String("SEED", ""); text != "" {
		var err error
		if s.seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			r.Fail("SEED", "%q is not a number", text)
		}
	} else {
		s.seed = uint64(rand.Uint32())
	}
	if err := r.Err(); err != nil {
		return s, err
	}
	var err error
	s.platform, err = runner.OptionsFrom(func(name string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return defaults[name]
	})
	s.platform.Env = map[string]string{
		"RATE_LIMIT_IP": "off", "RATE_LIMIT_USER": "off", "RATE_LIMIT_LOGIN": "off",
		// Retries and deadlines come fast; their order stays as in production.
		"RETRY_DELAYS": "300ms,600ms,1200ms", "PAYMENT_REFUND_RETRY": "3s", "UPSTREAM_TIMEOUT": "5s",
	}
	return s, err
}

// deadline is how long orders wait for their payment: with every other seed so
// short that many faults outlast it, and payments meet cancelled orders.
func deadline(seed uint64) string { return []string{"12s", "30s"}[seed%2] }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Getenv, os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "error: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string, out io.Writer) error {
	s, err := loadSettings(getenv)
	if err != nil {
		return err
	}
	failed := 0
	for i := range s.seeds {
		seed := s.seed + uint64(i)
		live := io.Discard
		if s.seeds == 1 {
			live = out
			_, _ = fmt.Fprintf(out, "seed %d: %s of faults, %d orders/s, %d replicas\n", seed, s.duration, s.rate, s.platform.Replicas)
		}
		res, err := runSeed(ctx, s, seed, live)
		if err != nil {
			return fmt.Errorf("seed %d: %w (%s)", seed, err, replay(s, seed))
		}
		report(out, s, res)
		if len(res.problems) > 0 {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d seeds: %w", failed, s.seeds, errViolated)
	}
	return nil
}

func replay(s settings, seed uint64) string {
	return fmt.Sprintf("make chaos SEED=%d DURATION=%s RATE=%d REPLICAS=%d", seed, s.duration, s.rate, s.platform.Replicas)
}

// report prints a line for a seed, and for one that failed all about it.
func report(out io.Writer, s settings, r *result) {
	word := "ok    "
	if len(r.problems) > 0 {
		word = "FAILED"
	}
	_, _ = fmt.Fprintf(out, "seed %-10d %s  %d orders: %d confirmed, %d cancelled; %d steps, %d requests sent again, %d records (%d again), %d dead letters; %.0fs\n",
		r.seed, word, r.orders, r.confirmed, r.ended, len(r.steps), r.asked, r.records, r.redundant, r.deadLetters, r.took.Seconds())
	if len(r.problems) == 0 {
		return
	}
	const most = 30
	for _, p := range r.problems[:min(most, len(r.problems))] {
		_, _ = fmt.Fprintln(out, "  "+p)
	}
	if more := len(r.problems) - most; more > 0 {
		_, _ = fmt.Fprintf(out, "  and %d more\n", more)
	}
	if s.seeds > 1 {
		for _, step := range r.steps {
			_, _ = fmt.Fprintln(out, "  "+step)
		}
	}
	_, _ = fmt.Fprintf(out, "  logs and data: %s\n  again: %s\n", r.dir, replay(s, r.seed))
}
