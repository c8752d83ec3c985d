//go:build unix

// Command bench measures the platform and prints Markdown tables.
//
//	make bench BENCH=messaging   relay, latency, consumer and commit against Watermill
//	make bench BENCH=saga        whole orders through the gateway
//	make bench BENCH=gateway     the gateway against other proxies
//	make bench BENCH=growth      cost per event with full tables against empty ones
//
// Flags set rounds and sizes; QUICK=1 is a run of a minute or so that shows
// that everything works. KAFKA=real takes Apache Kafka instead of the embedded
// broker. README.md has the results.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/bench/gateway"
	"github.com/tiffin-platform/tiffin/deploy/bench/messaging"
	"github.com/tiffin-platform/tiffin/deploy/bench/rig"
	"github.com/tiffin-platform/tiffin/deploy/bench/saga"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "saga" {
		// The customers share the machine with the platform, and are to cost little.
		if err := proc.RelaxTimers(); err != nil {
			say("%v", err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "error: "+err.Error())
		os.Exit(1)
	}
}

// settings are what all benchmarks have in common.
type settings struct {
	quick, realKafka bool
	getenv           func(string) string
	out              io.Writer
	flags            *flag.FlagSet
}

// say writes progress to where results do not go.
func say(format string, args ...any) { _, _ = fmt.Fprintf(os.Stderr, format+"\n", args...) }

// pick returns the size of a full run, or of a quick one.
func pick[T any](s settings, full, quick T) T {
	if s.quick {
		return quick
	}
	return full
}

func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	benches := map[string]func(context.Context, settings, []string) error{
		"messaging": runMessaging,
		"saga":      runSaga,
		"gateway":   runGateway,
		"growth":    runGrowth,
	}
	if len(args) > 0 && args[0] == rig.BrokerArg {
		return rig.ServeBroker(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == gateway.UpstreamArg {
		return gateway.ServeUpstream(args[1:])
	}
	if len(args) == 0 || benches[args[0]] == nil {
		return errors.New("usage: bench messaging | saga | gateway | growth [flags]; make bench BENCH=messaging")
	}
	s := settings{
		quick: getenv("QUICK") != "" && getenv("QUICK") != "0", realKafka: getenv("KAFKA") == "real",
		getenv: getenv, out: out, flags: flag.NewFlagSet(args[0], flag.ContinueOnError),
	}
	_, _ = fmt.Fprintf(out, "%s, %s, %s\n", args[0], time.Now().UTC().Format("2006-01-02 15:04 UTC"), machine())
	return benches[args[0]](ctx, s, args[1:])
}

func runMessaging(ctx context.Context, s settings, args []string) error {
	var o messaging.Options
	s.flags.IntVar(&o.Rounds, "rounds", pick(s, 5, 1), "interleaved rounds")
	s.flags.IntVar(&o.Backlog, "backlog", pick(s, 100_000, 5_000), "events in the outbox when the relay starts")
	s.flags.IntVar(&o.Consume, "consume", pick(s, 200_000, 10_000), "messages for our consumer")
	s.flags.IntVar(&o.ConsumeOther, "consume-other", pick(s, 30_000, 3_000), "messages for Watermill's consumer")
	s.flags.Float64Var(&o.Rate, "rate", 1000, "events per second of the latency runs")
	s.flags.DurationVar(&o.Latency, "latency", pick(s, 10*time.Second, 2*time.Second), "length of a latency run")
	s.flags.DurationVar(&o.Commit, "commit", pick(s, 4*time.Second, time.Second), "length of a commit run")
	s.flags.IntVar(&o.Writers, "writers", 16, "concurrent writers of the commit runs")
	only := s.flags.String("only", "", "some of relay,latency,consume,commit")
	if err := s.flags.Parse(args); err != nil {
		return err
	}
	if *only != "" {
		o.Only = strings.Split(*only, ",")
	}
	r, err := rig.Start(ctx, s.realKafka, s.getenv, say)
	if err != nil {
		return err
	}
	defer r.Stop()
	_, _ = fmt.Fprintf(s.out, "PostgreSQL %s, %s\n", r.Postgres, r.Broker)
	return messaging.Run(ctx, r, o, s.out, say)
}

func runSaga(ctx context.Context, s settings, args []string) error {
	var o saga.Options
	s.flags.IntVar(&o.Rounds, "rounds", pick(s, 5, 1), "interleaved rounds")
	s.flags.IntVar(&o.Orders, "orders", pick(s, 3000, 300), "orders of a run at saturation")
	s.flags.IntVar(&o.Clients, "clients", 48, "clients of a run at saturation")
	s.flags.IntVar(&o.Users, "users", pick(s, 40, 8), "customers, each with an open stream of notifications")
	s.flags.DurationVar(&o.Open, "open", pick(s, 15*time.Second, 3*time.Second), "length of an open-loop run")
	s.flags.Func("rates", "orders per second of the open loops, comma separated (default half and four fifths of saturation)", func(text string) error {
		for part := range strings.SplitSeq(text, ",") {
			rate, err := strconv.ParseFloat(part, 64)
			if err != nil || rate <= 0 {
				return fmt.Errorf("%q is no rate", part)
			}
			o.Rates = append(o.Rates, rate)
		}
		return nil
	})
	offset := s.flags.Int("port-offset", 13000, "added to every port of the platform, so that it runs beside another")
	if err := s.flags.Parse(args); err != nil {
		return err
	}
	platform, err := runner.OptionsFrom(s.getenv)
	if err != nil {
		return err
	}
	platform.PortOffset, platform.Out = *offset, os.Stderr
	return saga.Run(ctx, platform, o, s.out, say)
}

func runGateway(ctx context.Context, s settings, args []string) error {
	var o gateway.Options
	s.flags.IntVar(&o.Rounds, "rounds", pick(s, 5, 1), "interleaved rounds")
	s.flags.IntVar(&o.Conns, "conns", 64, "connections of the load generator")
	s.flags.IntVar(&o.Tokens, "tokens", 1000, "distinct tokens, each of a user of its own")
	s.flags.DurationVar(&o.Closed, "closed", pick(s, 5*time.Second, time.Second), "length of the closed loop of a run")
	s.flags.DurationVar(&o.Open, "open", pick(s, 5*time.Second, time.Second), "length of its open loop")
	s.flags.Float64Var(&o.Rate, "rate", 4000, "requests per second of the open loop")
	if err := s.flags.Parse(args); err != nil {
		return err
	}
	return gateway.Run(ctx, o, s.out, say)
}

func runGrowth(ctx context.Context, s settings, args []string) error {
	var o messaging.GrowthOptions
	s.flags.IntVar(&o.Rounds, "rounds", pick(s, 5, 1), "interleaved rounds")
	s.flags.IntVar(&o.Processed, "processed", pick(s, 10_000_000, 100_000), "processed events in the full tables")
	s.flags.IntVar(&o.Backlog, "backlog", pick(s, 1_000_000, 20_000), "outbox rows in the full tables")
	s.flags.IntVar(&o.Events, "events", pick(s, 100_000, 5_000), "events that are measured")
	s.flags.DurationVar(&o.Commit, "commit", pick(s, 4*time.Second, time.Second), "length of a commit run")
	s.flags.IntVar(&o.Writers, "writers", 16, "concurrent writers of the commit runs")
	if err := s.flags.Parse(args); err != nil {
		return err
	}
	r, err := rig.Start(ctx, s.realKafka, s.getenv, say)
	if err != nil {
		return err
	}
	defer r.Stop()
	_, _ = fmt.Fprintf(s.out, "PostgreSQL %s, %s\n", r.Postgres, r.Broker)
	return messaging.RunGrowth(ctx, r, o, s.out, say)
}
