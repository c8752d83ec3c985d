//go:build unix

// Command local runs the whole platform on one machine without Docker.
//
//	go run ./deploy/local run          start everything and stay up
//	go run ./deploy/local demo         the same, and play a customer
//	go run ./deploy/local rows <order> an order's rows and records
//	go run ./deploy/local clean-data   remove data, logs and binaries
//
// -v shows every line of every part. Settings are environment variables:
// SKIP, REPLICAS, KAFKA, RESTART, ONCE, TIFFIN_PORT_OFFSET, TIFFIN_DIR,
// TIFFIN_POSTGRES_BIN, TIFFIN_POSTGRES_MIRROR; deploy/local/README.md explains them.
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
	"syscall"

	"github.com/tiffin-platform/tiffin/deploy/local/broker"
	"github.com/tiffin-platform/tiffin/deploy/local/demo"
	"github.com/tiffin-platform/tiffin/deploy/local/rows"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
	"github.com/tiffin-platform/tiffin/pkg/env"
)

const usage = "usage: local [-v] run | demo | rows <order id> | clean-data"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "error: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, out io.Writer) error {
	flags := flag.NewFlagSet("local", flag.ContinueOnError)
	verbose := flags.Bool("v", getenv("VERBOSE") != "", "show every line of every part")
	if err := flags.Parse(args); err != nil {
		return errors.New(usage)
	}
	command, rest := flags.Arg(0), flags.Args()
	// The flag is good after the command too.
	if len(rest) > 1 && rest[1] == "-v" {
		*verbose, rest = true, append(rest[:1], rest[2:]...)
	}
	if command == "broker" {
		return serveBroker(ctx, rest[1:], out)
	}
	most := 1
	if command == "rows" {
		most = 2
	}
	if len(rest) > most {
		return fmt.Errorf("unexpected argument %q; %s", rest[most], usage)
	}
	opts, err := runner.OptionsFrom(getenv)
	if err != nil {
		return err
	}
	opts.Out, opts.Verbose = out, *verbose
	switch command {
	case "run":
		return stay(ctx, opts, nil)
	case "demo":
		r := env.New(getenv)
		once := r.Bool("ONCE", false)
		if err := r.Err(); err != nil {
			return err
		}
		if once {
			return playOnce(ctx, opts)
		}
		return stay(ctx, opts, demo.Play)
	case "rows":
		order := getenv("ORDER")
		if len(rest) > 1 {
			order = rest[1]
		}
		return rows.Print(ctx, opts, order, out)
	case "clean-data":
		return runner.CleanData(ctx, opts)
	}
	return errors.New(usage)
}

// serveBroker is how the runner starts the embedded broker as a process of its own.
func serveBroker(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("usage: local broker <data directory> <port> <port for clients>")
	}
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	clients, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("port for clients: %w", err)
	}
	return broker.Run(ctx, args[0], port, clients, out)
}

// stay runs the platform until it is interrupted or fails.
func stay(ctx context.Context, opts runner.Options, play func(context.Context, *runner.Platform, io.Writer) error) error {
	p, err := runner.Start(ctx, opts)
	if err != nil {
		return err
	}
	defer p.Stop()
	if play != nil {
		if err := play(ctx, p, opts.Out); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	} else {
		demo.Welcome(p, opts.Out)
	}
	_, _ = fmt.Fprintln(opts.Out, "\nrunning; Ctrl-C stops everything")
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(opts.Out, "stopping")
		return nil
	case <-p.Failed():
		return p.Err()
	}
}

func playOnce(ctx context.Context, opts runner.Options) error {
	p, err := runner.Start(ctx, opts)
	if err != nil {
		return err
	}
	defer p.Stop()
	return demo.Play(ctx, p, opts.Out)
}
