package simulator

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// order is what an intent is made for.
type order struct {
	key              string
	amount           int64
	currency, method string
}

// create makes the intents that are not there yet, and returns the references.
func create(ctx context.Context, pool *pgxpool.Pool, orders []order) ([]string, error) {
	var b pgx.Batch // one transaction
	refs := make([]string, len(orders))
	for i, o := range orders {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make intent id: %w", err)
		}
		ref := "sim_" + strings.ReplaceAll(id.String(), "-", "")
		b.Queue(`insert into simulator.intents (ref, key, amount, currency, method, status)
			values ($1, $2, $3, $4, $5, 'created') on conflict (key) do nothing`, ref, o.key, o.amount, o.currency, o.method)
		b.Queue(`insert into simulator.calls (operation, ref, key, result)
			select 'create', ref, key, 'created' from simulator.intents where key = $1 returning ref`, o.key).
			QueryRow(func(row pgx.Row) error { return row.Scan(&refs[i]) })
	}
	if err := pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, err
	}
	return refs, nil
}

// change is a call about an intent: what the rules make of it.
type change struct {
	operation, ref string
	rule           func(*Intent) (payment.Outcome, error)
}

// answer is what the caller gets, and what is noted.
type answer struct {
	payment.Outcome
	err error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return string(a.Result)
}

// kept is an intent as the books have it.
type kept struct {
	Intent
	key, currency string
	amount        int64
}

// apply keeps the intents' rows locked meanwhile.
func apply(ctx context.Context, tx *outbox.Tx, changes []change) ([]answer, error) {
	refs := make([]string, len(changes))
	for i, c := range changes {
		refs[i] = c.ref
	}
	slices.Sort(refs) // the order in which everybody locks, one lookup each
	rows, err := tx.Query(ctx, `select i.* from unnest($1::text[]) as u (ref) cross join lateral (
			select ref, key, amount, currency, method, status, confirms from simulator.intents where ref = u.ref limit 1 for update
		) i`, slices.Compact(refs))
	if err != nil {
		return nil, err
	}
	intents := make(map[string]*kept, len(changes))
	var ref string
	var k kept
	_, err = pgx.ForEachRow(rows, []any{&ref, &k.key, &k.amount, &k.currency, &k.Method, &k.State, &k.Confirms}, func() error {
		found := k
		intents[ref] = &found
		return nil
	})
	if err != nil {
		return nil, err
	}
	answers := make([]answer, len(changes))
	for i, c := range changes {
		k := intents[c.ref]
		if k == nil {
			return nil, fmt.Errorf("there is no intent %.64q", c.ref)
		}
		before := k.Intent
		answers[i].Outcome, answers[i].err = c.rule(&k.Intent)
		tx.QueueRow(`insert into simulator.calls (operation, ref, key, result)
			select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])`, c.operation, c.ref, k.key, answers[i].String())
		k.write(tx, c.ref, before)
	}
	return answers, nil
}

// write puts into the books what a rule changed.
func (k *kept) write(tx *outbox.Tx, ref string, before Intent) {
	if k.Intent == before {
		return
	}
	tx.Queue(`update simulator.intents set status = $2, confirms = $3 where ref = $1`, ref, k.State, k.Confirms)
	if k.State == before.State {
		return
	}
	switch k.State {
	case IsCharged:
		tx.QueueRow(`insert into simulator.charges (ref, key, amount, currency)
			select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[])`, ref, k.key, k.amount, k.currency)
	case IsRefunded:
		tx.Queue(`insert into simulator.voids (ref, key, kind, amount, currency) values ($1, $2, 'refund', $3, $4)`, ref, k.key, k.amount, k.currency)
	case IsVoided:
		tx.Queue(`insert into simulator.voids (ref, key, kind, amount, currency) values ($1, $2, 'cancel', 0, $3)`, ref, k.key, k.currency)
	}
}
