//go:build e2e

// Package e2e tests the whole platform as a black box, through the gateway:
// against a platform that it starts itself (TARGET=local), the one that Docker
// Compose runs (TARGET=compose), or any other (TARGET=http://host:port).
package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/deploy/invariant"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// target is the platform under test.
var target struct {
	name                      string // local, compose or url
	base                      string // of the gateway
	environ                   []string
	adminEmail, adminPassword string
	orderDB                   string             // "" where the databases cannot be reached
	checker                   *invariant.Checker // nil there
	platform                  *runner.Platform   // nil unless local
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx := context.Background()
	offset := 0
	target.name = os.Getenv("TARGET")
	target.adminEmail, target.adminPassword = runner.AdminEmail, runner.AdminPassword
	switch {
	case target.name == "" || target.name == "local":
		target.name = "local"
		opts, err := runner.OptionsFrom(os.Getenv)
		if err != nil {
			return 1, err
		}
		dir, err := os.MkdirTemp("", "tiffin-e2e-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		opts.Dir, opts.Out = dir, os.Stdout
		// Retries come fast, so that tests of them do not take minutes; the order
		// of the delays and the deadline behind them stay as in production.
		opts.Env = map[string]string{"RETRY_DELAYS": "500ms,1s,2s", "ORDER_PAYMENT_DEADLINE": "45s"}
		p, err := runner.Start(ctx, opts)
		if err != nil {
			return 1, err
		}
		defer p.Stop()
		target.platform = p
		offset = opts.PortOffset
		target.base = fmt.Sprintf("http://localhost:%d", 5000+offset)
		target.environ = []string{fmt.Sprintf("TIFFIN_PORT_OFFSET=%d", offset)}
	case target.name == "compose":
		target.base = "http://localhost:5000"
	case strings.HasPrefix(target.name, "http://"), strings.HasPrefix(target.name, "https://"):
		target.base, target.name = strings.TrimSuffix(target.name, "/"), "url"
		if v := os.Getenv("AUTH_ADMIN_EMAIL"); v != "" {
			target.adminEmail = v
		}
		if v := os.Getenv("AUTH_ADMIN_PASSWORD"); v != "" {
			target.adminPassword = v
		}
	default:
		return 1, fmt.Errorf("TARGET=%s: use local, compose or the gateway's URL", target.name)
	}
	if target.name != "url" {
		db := func(name string, port int) string {
			return fmt.Sprintf("postgres://tiffin:tiffin@localhost:%d/%s?sslmode=disable", port+offset, name)
		}
		target.orderDB = db("order_db", 5433)
		var err error
		target.checker, err = invariant.Open(ctx, invariant.Databases{
			Order: target.orderDB, Payment: db("payment_db", 5434), Notification: db("notification_db", 5435),
		})
		if err != nil {
			return 1, err
		}
		defer target.checker.Close()
	}
	code := m.Run()
	if target.platform != nil && code != 0 {
		for _, part := range target.platform.Parts() {
			tail(target.platform.LogFile(part))
		}
	}
	return code, nil
}

// tail shows the last lines of a part's log, for a run that failed.
func tail(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	var problems []string
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") || strings.Contains(line, "panic") {
			problems = append(problems, line)
		}
	}
	fmt.Printf("--- %s: %d warnings and errors\n", file, len(problems))
	for _, line := range problems[max(0, len(problems)-5):] {
		fmt.Println(line)
	}
}

// made are the orders of all tests; the last test checks them once more.
var made ids

type ids struct {
	sync.Mutex
	list []string
}

func (i *ids) add(id string) {
	i.Lock()
	defer i.Unlock()
	i.list = append(i.list, id)
}

// holds requires the saga's invariant for the orders.
func holds(t testing.TB, orders ...string) {
	t.Helper()
	if target.checker == nil {
		holdsByAPI(t, orders)
		return
	}
	problems, err := target.checker.Wait(t.Context(), patience, orders...)
	require.NoError(t, err)
	require.Empty(t, problems, "the invariant is broken for %d of %d orders", len(problems), len(orders))
}

// holdsByAPI is as much of the invariant as the API shows.
func holdsByAPI(t testing.TB, orders []string) {
	t.Helper()
	c := admin(t)
	for _, id := range orders {
		eventually(t, "order "+id+" and its payment to agree", func() string {
			o, p := c.order(id), c.payments(id)
			if len(p) == 0 && o.Status == "cancelled" {
				return "" // so early that its payment never began; the API shows none
			}
			if len(p) != 1 {
				return fmt.Sprintf("%d payments", len(p))
			}
			switch {
			case o.Status == "pending":
			case o.Status == "cancelled" && (p[0].Status == "failed" || p[0].Status == "voided" || p[0].Status == "refunded"):
				return ""
			case o.Status != "cancelled" && p[0].Status == "completed":
				return ""
			}
			return o.Status + " and " + p[0].Status
		})
	}
}

// emitted returns the ids of the order-service's events of a type about an order.
func emitted(t testing.TB, orderID, typ string) []string {
	t.Helper()
	if target.orderDB == "" {
		return []string{"not visible here"}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, target.orderDB)
	require.NoError(t, err)
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `select event_id::text from msg.outbox where topic = $1 and convert_from(key, 'utf8') = $2`, typ, orderID)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return list
}
