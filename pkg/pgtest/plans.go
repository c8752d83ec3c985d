//go:build unix

package pgtest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Plans remembers the statements that run through its pool, and looks at how
// PostgreSQL would run them.
type Plans struct {
	Pool *pgxpool.Pool

	plain *pgxpool.Pool
	mu    sync.Mutex
	seen  map[string][]any
}

// Watch returns Plans for the database of pool. Fill its tables before, so that
// there is something to plan for.
func Watch(t testing.TB, pool *pgxpool.Pool) *Plans {
	t.Helper()
	p := &Plans{plain: pool, seen: map[string][]any{}}
	cfg := pool.Config()
	cfg.ConnConfig.Tracer = p
	var err error
	p.Pool, err = pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(p.Pool.Close)
	_, err = pool.Exec(t.Context(), `analyze`)
	require.NoError(t, err)
	return p
}

// many is how many rows make a scan or a sort one of the whole.
const many = 500

// Require fails the test when a statement that ran since the last call would
// scan a table of many rows from one end to the other, or sort many rows,
// whether it is planned for its arguments or for any. It forgets the statements
// and returns how many there were.
func (p *Plans) Require(t testing.TB) int {
	t.Helper()
	p.mu.Lock()
	seen := p.seen
	p.seen = map[string][]any{}
	p.mu.Unlock()
	conn, err := p.plain.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	rows, err := conn.Query(t.Context(), `select relname, reltuples::int from pg_class where relkind = 'r'`)
	require.NoError(t, err)
	size := map[string]int{}
	var name string
	var tuples int
	_, err = pgx.ForEachRow(rows, []any{&name, &tuples}, func() error { size[name] = tuples; return nil })
	require.NoError(t, err)
	for sql, args := range seen {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			n := explain(t, conn.Conn(), mode, sql, args)
			for _, bad := range n.whole(size) {
				t.Errorf("%s in the plan (%s) of\n%s\n%s", bad, mode, sql, n)
			}
		}
	}
	return len(seen)
}

// node is a node of a plan.
type node struct {
	Type  string  `json:"Node Type"`
	Table string  `json:"Relation Name"`
	Index string  `json:"Index Name"`
	Rows  float64 `json:"Plan Rows"`
	Plans []node
}

// whole returns what reads or sorts the whole of a table.
func (n node) whole(size map[string]int) (bad []string) {
	switch {
	case n.Type == "Seq Scan" && size[n.Table] >= many:
		bad = append(bad, "Seq Scan on "+n.Table)
	case n.Type == "Sort" && n.Rows >= many:
		bad = append(bad, fmt.Sprintf("Sort of %.0f rows", n.Rows))
	}
	for _, child := range n.Plans {
		bad = append(bad, child.whole(size)...)
	}
	return bad
}

func (n node) String() string {
	text := fmt.Sprintf("%s %s %s (%.0f rows)\n", n.Type, n.Table, n.Index, n.Rows)
	for _, child := range n.Plans {
		text += "  " + strings.ReplaceAll(child.String(), "\n", "\n  ") + "\n"
	}
	return strings.TrimRight(text, "\n ")
}

func explain(t testing.TB, conn *pgx.Conn, mode, sql string, args []any) node {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, conn.DeallocateAll(ctx))
	statement, err := conn.Prepare(ctx, "watched", sql)
	require.NoError(t, err, sql)
	literals := make([]string, len(args))
	for i, arg := range args {
		b, err := conn.TypeMap().Encode(statement.ParamOIDs[i], pgtype.TextFormatCode, arg, nil)
		require.NoError(t, err, sql)
		if literals[i] = "null"; b != nil {
			literals[i] = "E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(string(b)) + "'"
		}
	}
	list := ""
	if len(literals) > 0 {
		list = "(" + strings.Join(literals, ", ") + ")"
	}
	// What is chosen has to be chosen for what it costs.
	_, err = conn.Exec(ctx, `set enable_seqscan = on; set plan_cache_mode = `+mode, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	var text string
	err = conn.QueryRow(ctx, `explain (format json) execute watched`+list, pgx.QueryExecModeSimpleProtocol).Scan(&text)
	require.NoError(t, err, "%s with %s", sql, list)
	var plans []struct{ Plan node }
	require.NoError(t, json.Unmarshal([]byte(text), &plans))
	return plans[0].Plan
}

func (p *Plans) note(sql string, args []any) {
	words := strings.Fields(sql)
	if len(words) == 0 {
		return
	}
	switch strings.ToLower(words[0]) {
	case "select", "insert", "update", "delete", "with":
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[sql] = args
	}
}

// TraceQueryStart notes a statement.
func (p *Plans) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	p.note(data.SQL, data.Args)
	return ctx
}

// TraceQueryEnd does nothing.
func (p *Plans) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart does nothing.
func (p *Plans) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery notes a statement of a batch.
func (p *Plans) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	p.note(data.SQL, data.Args)
}

// TraceBatchEnd does nothing.
func (p *Plans) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}
