package outbox_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// The gap bound rests on both: the xid comes before the seq, and no session
// keeps numbers in reserve.
func TestTheTableKeepsItsPromises(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var cache int64
	require.NoError(t, w.pool.QueryRow(t.Context(), `
		select seqcache from pg_sequence where seqrelid = pg_get_serial_sequence('msg.outbox', 'seq')::regclass`).Scan(&cache))
	require.EqualValues(t, 1, cache)
	var xid, seq int16
	require.NoError(t, w.pool.QueryRow(t.Context(), `
		select max(attnum) filter (where attname = 'xid'), max(attnum) filter (where attname = 'seq')
		from pg_attribute where attrelid = 'msg.outbox'::regclass`).Scan(&xid, &seq))
	require.Less(t, xid, seq)
	require.EqualValues(t, 1, xid)

	// And in the plan of both inserts the id is computed before the number.
	for _, sql := range []string{outbox.InsertOneSQL, outbox.InsertManySQL} {
		plan := strings.Join(w.explain(w.conn(), "verbose", sql, make([]any, 5)...), "\n")
		first, then := strings.Index(plan, "pg_current_xact_id()"), strings.Index(plan, "nextval(")
		require.True(t, 0 <= first && first < then, plan)
	}
}

func (w *world) conn() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.ConnectConfig(w.t.Context(), outbox.ConnConfig(w.relay(outbox.RelayConfig{})))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// explain returns the generic plan, as the relay's connection uses it.
func (w *world) explain(conn *pgx.Conn, options, sql string, args ...any) []string {
	w.t.Helper()
	ctx := w.t.Context()
	name := fmt.Sprintf("plan_%d", time.Now().UnixNano())
	_, err := conn.Exec(ctx, `prepare `+name+` as `+sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(w.t, err)
	literals := make([]string, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case nil:
			literals[i] = "null"
		case int:
			literals[i] = fmt.Sprint(v)
		default:
			literals[i] = fmt.Sprintf("'%v'", v)
		}
	}
	rows, err := conn.Query(ctx, `explain (`+options+`) execute `+name+`(`+strings.Join(literals, ",")+`)`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(w.t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	return lines
}

// However large the table and its backlog are, the relay's statements walk the
// primary key from where they are: they scan nothing else and sort nothing.
func TestHotStatementsUseThePrimaryKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.backfill(100_000)
	conn := w.conn()
	for name, c := range map[string]struct {
		sql     string
		args    []any
		buffers int // pages touched at most
	}{
		"read at the end":       {outbox.ReadSQL, []any{99_990, "{}", "{}", 1000}, 40},
		"read in the middle":    {outbox.ReadSQL, []any{50_000, "{40000,45000}", "{40001,45000}", 100}, 80},
		"read from the start":   {outbox.ReadSQL, []any{0, "{}", "{}", 100}, 40},
		"measure the backlog":   {outbox.BacklogSQL, []any{10}, 20},
		"prune, nothing is old": {outbox.PruneSQL, []any{0, 0, 90_000, 100, "24 hours"}, 60},
	} {
		plan := strings.Join(w.explain(conn, "analyze, buffers, timing off", c.sql, c.args...), "\n")
		require.NotContains(t, plan, "Seq Scan on outbox ", name)
		require.NotContains(t, plan, "Sort", name)
		require.Contains(t, plan, "outbox_pkey", name)
		var touched []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		lines := w.explain(conn, "analyze, buffers, timing off, format json", c.sql, c.args...)
		require.NoError(t, json.Unmarshal([]byte(strings.Join(lines, "\n")), &touched), name)
		require.LessOrEqual(t, touched[0].Plan.Hit+touched[0].Plan.Read, c.buffers, "%s\n%s", name, plan)
	}
}

func TestOldRowsAreDeletedOncePublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.backfill(12_000)
	_, err := w.pool.Exec(t.Context(), `update msg.outbox set created_at = now() - interval '2 hours' where seq <= 11000`)
	require.NoError(t, err)
	// A transaction that may still fill this gap keeps what lies above it.
	slow := w.begin().insert(newEvent("slow"))
	w.backfill(3000)
	_, err = w.pool.Exec(t.Context(), `update msg.outbox set created_at = now() - interval '2 hours' where seq > 14000`)
	require.NoError(t, err)
	reg := prometheus.NewRegistry()
	relay := outbox.NewRelay(w.db, w.client(), outbox.RelayConfig{Retention: time.Hour, Prune: 10 * time.Millisecond}, w.log, reg)
	run(t, relay.Run)
	w.reaches(15_001)
	require.Eventually(t, func() bool { return w.count("msg.outbox") == 1000+3000 }, patience, 10*time.Millisecond)
	slow.commit()
	w.drained()
	w.emit("after")
	w.drained()
	require.Eventually(t, func() bool { return w.count("msg.outbox") == 3001 }, patience, 10*time.Millisecond, "young rows stay")
	require.Eventually(t, func() bool {
		return metric(t, reg, "tiffin_outbox_pruned_total") == 12_000+3000+2-3001
	}, patience, time.Millisecond)
	require.Len(t, w.published(), 12_000+3000+2)
}

// metric is a metric's value; of a histogram, its count.
func metric(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return -1
}

func TestTheRelayMeasuresItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.series(7, "a")
	accept := w.refuse()
	reg := prometheus.NewRegistry()
	stop := run(t, outbox.NewRelay(w.db, w.client(), outbox.RelayConfig{}, w.log, reg).Run)
	value := func(name string) float64 { return metric(t, reg, name) }
	require.Eventually(t, func() bool { return value("tiffin_outbox_backlog_events") == 7 }, patience, time.Millisecond)
	require.Positive(t, value("tiffin_outbox_lag_seconds"))
	require.EqualValues(t, 1, value("tiffin_outbox_leader"))
	accept()
	w.drained()
	require.Eventually(t, func() bool { return value("tiffin_outbox_published_total") == 7 }, patience, time.Millisecond)
	require.Positive(t, value("tiffin_outbox_publish_seconds"))
	stop()
	require.Zero(t, value("tiffin_outbox_leader"))
	require.Zero(t, value("tiffin_outbox_backlog_events"))
}

func TestSendingIsASpanBelowTheOneThatEmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	relay := w.relay(outbox.RelayConfig{})
	relay.Trace(provider)
	run(t, relay.Run)
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	for _, ctx := range []context.Context{
		trace.ContextWithSpanContext(t.Context(), parent),
		trace.ContextWithSpanContext(t.Context(), parent.WithTraceFlags(0)), // not sampled: no span
		t.Context(),
	} {
		require.NoError(t, w.db.InTx(ctx, func(tx *outbox.Tx) error {
			tx.Emit(ctx, newEvent("k"))
			return nil
		}))
	}
	w.drained()
	got := spans.GetSpans()
	require.Len(t, got, 1)
	require.Equal(t, "send "+topic, got[0].Name)
	require.Equal(t, parent.SpanID(), got[0].Parent.SpanID())
	require.Equal(t, trace.SpanKindProducer, got[0].SpanKind)
	require.Contains(t, got[0].Attributes, attribute.String("messaging.destination.name", topic))
}
