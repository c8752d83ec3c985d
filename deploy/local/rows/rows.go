//go:build unix

// Package rows prints what the platform has stored about one order: its rows
// in the services' databases and its records in the topics. It looks from
// outside and knows no schema: whatever table refers to the order is shown.
package rows

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// Print writes an order's rows and records. It works next to the runner and
// next to compose, which use the same ports.
func Print(ctx context.Context, o runner.Options, order string, out io.Writer) error {
	id, err := uuid.Parse(order)
	if err != nil {
		return fmt.Errorf("ORDER=%q is no order id: make rows ORDER=<id>", order)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := Tables(ctx, o, id.String(), nil, out); err != nil {
		return err
	}
	return Records(ctx, o.Brokers(), id.String(), out)
}

// Tables writes the rows that belong to the order in the three databases,
// without the tables and columns that hide names.
func Tables(ctx context.Context, o runner.Options, order string, hide []string, out io.Writer) error {
	for _, service := range []string{"order-service", "payment-service", "notification-service"} {
		if err := database(ctx, o.DatabaseURL(service), order, hide, out); err != nil {
			return fmt.Errorf("%s's database: %w (is the platform running? make run)", service, err)
		}
	}
	return nil
}

// refers lists the columns by which a row belongs to an order, directly or
// through a payment.
var refers = []string{"id", "order_id", "payment_id", "provider_ref", "ref", "intent_ref", "intent_id", "idempotency_key", "key"}

type table struct {
	Schema, Name string
	Columns      []string
}

func database(ctx context.Context, url, order string, hide []string, out io.Writer) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	found, err := conn.Query(ctx, `select table_schema, table_name, array_agg(column_name::text order by ordinal_position)
		from information_schema.columns join information_schema.tables using (table_schema, table_name)
		where table_schema not in ('pg_catalog', 'information_schema', 'msg') and table_type = 'BASE TABLE'
		and table_name not like 'goose%' group by 1, 2 order by 1, 2`)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(found, pgx.RowToStructByPos[table])
	if err != nil {
		return err
	}
	// The first pass finds what the order's rows refer to, the second what
	// refers to that: the ledger knows the payment's reference only.
	known := map[string]bool{order: true}
	var rows map[string][]string
	for range 2 {
		if rows, err = matching(ctx, conn, tables, known, hide); err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(out, "\n%s\n", conn.Config().Database)
	if len(rows) == 0 {
		_, _ = fmt.Fprintln(out, "  no rows")
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		_, _ = fmt.Fprintf(out, "  %s\n", name)
		for _, row := range rows[name] {
			_, _ = fmt.Fprintf(out, "    %s\n", row)
		}
	}
	return nil
}

// matching returns the rows by table that refer to what is known, and adds to
// it what they refer to.
func matching(ctx context.Context, conn *pgx.Conn, tables []table, known map[string]bool, hide []string) (map[string][]string, error) {
	rows := map[string][]string{}
	for _, t := range tables {
		var where []string
		for _, column := range t.Columns {
			if slices.Contains(refers, column) {
				where = append(where, pgx.Identifier{column}.Sanitize()+`::text = any($1)`)
			}
		}
		if len(where) == 0 {
			continue
		}
		found, err := conn.Query(ctx, `select row_to_json(t)::text from `+pgx.Identifier{t.Schema, t.Name}.Sanitize()+
			` t where `+strings.Join(where, " or ")+` order by t limit 200`, slices.Collect(maps.Keys(known)))
		if err != nil {
			return nil, err
		}
		texts, err := pgx.CollectRows(found, pgx.RowTo[string])
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t.Schema, t.Name, err)
		}
		for _, text := range texts {
			line, values := flatten(text, hide)
			if name := t.Schema + "." + t.Name; !slices.Contains(hide, name) {
				rows[name] = append(rows[name], line)
			}
			for _, column := range []string{"payment_id", "provider_ref", "ref"} {
				if v := values[column]; v != "" {
					known[v] = true
				}
			}
			if _, isPayment := values["provider_ref"]; isPayment {
				known[values["id"]] = true
			}
		}
	}
	return rows, nil
}

// flatten turns a row's JSON into column=value, in the order of the columns,
// without what is empty or hidden.
func flatten(text string, hide []string) (string, map[string]string) {
	const longest = 90
	values := map[string]string{}
	var parts []string
	dec := json.NewDecoder(strings.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return text, values
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return text, values
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return text, values
		}
		if bytes.Equal(raw, []byte("null")) {
			continue
		}
		value := string(raw)
		if s := ""; json.Unmarshal(raw, &s) == nil {
			value = s
		}
		values[fmt.Sprint(name)] = value
		if value == "" || slices.Contains(hide, fmt.Sprint(name)) {
			continue
		}
		if runes := []rune(value); len(runes) > longest {
			value = string(runes[:longest]) + "…"
		}
		parts = append(parts, fmt.Sprintf("%v=%s", name, value))
	}
	return strings.Join(parts, "  "), values
}
