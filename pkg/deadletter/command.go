package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
	"github.com/tiffin-platform/tiffin/pkg/service"
)

type runFunc func(ctx context.Context, cmd Command) (int, error)

// SubCommand returns "dlq" for a service's main function. It works on the
// service's database, whether the service runs or not; a running one sends what
// is redriven.
func SubCommand(group, defaultDatabaseURL string) service.Command {
	return service.Command{
		Name:  "dlq",
		Usage: "list|show|redrive|discard|export   look at dead letters, send them again, be done with them (dlq list -h)",
		Run: func(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
			r := env.New(getenv)
			cfg := postgres.ConfigFrom(r, defaultDatabaseURL)
			if err := r.Err(); err != nil {
				return err
			}
			pool, err := postgres.Open(ctx, cfg)
			if err != nil {
				return err
			}
			defer pool.Close()
			err = run(ctx, NewStore(outbox.NewDB(pool, nil), group), args, getenv("USER"), stdout)
			if err == nil || errors.Is(err, flag.ErrHelp) {
				return nil
			}
			return postgres.Explain(err)
		},
	}
}

// options are the flags of a sub-command.
type options struct {
	cmd  Command
	all  bool
	json bool
}

func parse(action string, args []string, user string, out io.Writer) (options, error) {
	var o options
	f := &o.cmd.Filter
	fs := flag.NewFlagSet("dlq "+action, flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() {
		fmt.Fprintf(out, "usage: dlq %s [flags] [id ...]\n", action)
		fs.PrintDefaults()
	}
	fs.StringVar(&f.Type, "type", "", "only this event type")
	fs.StringVar(&f.Class, "class", "", "only this error class (transient, permanent, undecodable, expired, ...)")
	fs.StringVar(&f.Key, "key", "", "only this key, such as an order id")
	fs.IntVar(&f.Limit, "limit", 0, "the oldest ones only; 0 is all")
	fs.DurationVar((*time.Duration)(&f.Older), "older", 0, "dead for at least this long")
	fs.DurationVar((*time.Duration)(&f.Newer), "newer", 0, "dead for at most this long")
	status := ""
	switch action {
	case "list", "export", "show":
		fs.StringVar(&status, "status", string(Dead), "dead, redriven, resolved, discarded or any")
		fs.BoolVar(&o.json, "json", false, "lines of JSON")
	default:
		fs.BoolVar(&o.all, "all", false, "every dead letter: needed when there is no other filter")
		fs.BoolVar(&o.cmd.DryRun, "dry-run", false, "only say how many it would be")
		fs.IntVar(&o.cmd.Rate, "rate", 0, "per second at most; 0 is as fast as it goes")
	}
	fs.StringVar(&o.cmd.Actor, "actor", user, "who does it; kept in the database")
	fs.StringVar(&o.cmd.Reason, "reason", "", "why; kept in the database")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if status != "any" {
		f.Status = Status(status)
	}
	for _, arg := range fs.Args() {
		id, err := uuid.Parse(arg)
		if err != nil {
			return o, fmt.Errorf("%q is no id of a dead letter", arg)
		}
		f.IDs = append(f.IDs, id)
	}
	return o, nil
}

func run(ctx context.Context, s *Store, args []string, user string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("dlq: say list, show, redrive, discard or export")
	}
	action := args[0]
	o, err := parse(action, args[1:], user, out)
	if err != nil {
		return err
	}
	switch action {
	case "list":
		return printList(ctx, s, o, out)
	case "show":
		return printLetters(ctx, s, o.cmd.Filter.IDs, out)
	case "export":
		_, err := s.Export(ctx, o.cmd, out)
		return err
	case "redrive":
		return s.carryOut(ctx, o, s.Redrive, "redriven", out)
	case "discard":
		return s.carryOut(ctx, o, s.Discard, "discarded", out)
	}
	return fmt.Errorf("dlq: %q is none of list, show, redrive, discard, export", action)
}

func (s *Store) carryOut(ctx context.Context, o options, do runFunc, done string, out io.Writer) error {
	if !o.cmd.Filter.selects() && !o.all {
		return errors.New("dlq: give ids or a filter, or -all for every dead letter")
	}
	total, err := s.matching(ctx, with(o.cmd.Filter, Dead))
	if err != nil {
		return err
	}
	if o.cmd.DryRun {
		fmt.Fprintf(out, "%d dead letters would be %s\n", total, done)
		return nil
	}
	o.cmd.Progress = func(n int) { fmt.Fprintf(out, "%d of %d\n", n, total) }
	n, err := do(ctx, o.cmd)
	fmt.Fprintf(out, "%d dead letters %s\n", n, done)
	return err
}

func with(f Filter, s Status) Filter {
	f.Status = s
	return f
}

func printList(ctx context.Context, s *Store, o options, out io.Writer) error {
	letters, err := s.List(ctx, o.cmd.Filter)
	if err != nil {
		return err
	}
	if o.json {
		enc := json.NewEncoder(out)
		for _, l := range letters {
			if err := enc.Encode(l.View()); err != nil {
				return err
			}
		}
		return nil
	}
	tw := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tSTATUS\tDEAD SINCE\tTYPE\tKEY\tCLASS\tTRIES\tERROR")
	for _, l := range letters {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%.40q\t%.40q\t%s\t%d\t%.80q\n", l.ID, l.Status, l.DeadAt.UTC().Format(time.RFC3339),
			l.Type, l.Key, l.ErrorClass, l.Attempts, l.Error)
	}
	fmt.Fprintf(tw, "%d dead letters\n", len(letters))
	return tw.Flush()
}

func printLetters(ctx context.Context, s *Store, ids []uuid.UUID, out io.Writer) error {
	if len(ids) == 0 {
		return errors.New("dlq: say which: dlq show <id>")
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	for _, id := range ids {
		l, history, err := s.Show(ctx, id)
		if err != nil {
			return fmt.Errorf("dead letter %s: %w", id, err)
		}
		if err := enc.Encode(shown{l.View(), history}); err != nil {
			return err
		}
	}
	return nil
}
