// Package service runs a service's process: signals, exit status, the health
// probe for containers, and sub-commands.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/env"
)

// RunFunc is a service's run function: it wires the service from settings and
// returns when ctx has ended and everything is closed, or when it cannot go on.
type RunFunc func(ctx context.Context, getenv func(string) string, stdout io.Writer) error

// Command is a sub-command, such as "dlq list".
type Command struct {
	Name  string
	Usage string // one line
	Run   func(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error
}

// Main is the body of a service's main function. Without arguments it runs the
// service until SIGINT or SIGTERM; a second signal ends it at once. With
// -healthcheck it asks a running service's /readyz and exits with 0 or 1.
// adminAddr is the default of ADMIN_ADDR.
func Main(name, adminAddr string, run RunFunc, commands ...Command) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // from now on a signal has its default effect
	}()
	if err := dispatch(ctx, name, adminAddr, run, commands, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Ended returns err, or nil when ctx has ended: what a service was doing when it
// was told to stop is no failure.
func Ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // a clean end
	}
	return err
}

func dispatch(ctx context.Context, name, adminAddr string, run RunFunc, commands []Command, args []string) error {
	if len(args) == 0 {
		return run(ctx, os.Getenv, os.Stdout)
	}
	switch args[0] {
	case "-healthcheck", "--healthcheck":
		return healthcheck(ctx, os.Getenv, adminAddr)
	case "-h", "-help", "--help", "help":
		usage(os.Stdout, name, commands)
		return nil
	}
	for _, c := range commands {
		if c.Name == args[0] {
			return c.Run(ctx, args[1:], os.Getenv, os.Stdout)
		}
	}
	usage(os.Stderr, name, commands)
	return fmt.Errorf("unknown argument %q", args[0])
}

func usage(w io.Writer, name string, commands []Command) {
	fmt.Fprintf(w, "usage: %s                run the service; settings are environment variables\n", name)
	fmt.Fprintf(w, "       %s -healthcheck   exit with 0 when the running service is ready\n", name)
	for _, c := range commands {
		fmt.Fprintf(w, "       %s %s   %s\n", name, c.Name, c.Usage)
	}
}

func healthcheck(ctx context.Context, getenv func(string) string, adminAddr string) error {
	r := env.New(getenv)
	addr := r.Addr("ADMIN_ADDR", adminAddr)
	if err := r.Err(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("not alive: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return errors.Join(fmt.Errorf("not ready: %s", body), err)
	}
	return nil
}
