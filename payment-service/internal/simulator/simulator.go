// Package simulator is a card provider that keeps books instead of moving
// money. It stands in for one on another machine: it has its own connections,
// and what it did is committed before it answers, so a caller that is killed
// half-way finds it done. Its books (schema simulator) are what tests compare
// with what the platform believes.
package simulator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Name is what payments carry as their provider.
const Name = "simulator"

// patience is how long a call of the Timeout token waits for nothing.
const patience = time.Second

// Simulator is a payment.Provider.
type Simulator struct {
	db      *outbox.DB // only its transactions; a provider writes no events
	latency time.Duration
}

// New returns a simulator that keeps its books through pool, which nobody else
// should use, and takes latency for each call: half before it acts, half before
// it answers.
func New(pool *pgxpool.Pool, latency time.Duration) *Simulator {
	return &Simulator{db: outbox.NewDB(pool, nil), latency: latency}
}

// Create makes an intent, or finds the one that it made for key before.
func (s *Simulator) Create(ctx context.Context, key string, amount int64, currency, method string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("make intent id: %w", err)
	}
	ref := "sim_" + strings.ReplaceAll(id.String(), "-", "")
	err = s.call(ctx, func(tx *outbox.Tx) error {
		tx.Queue(`insert into simulator.intents (ref, key, amount, currency, method, status)
			values ($1, $2, $3, $4, $5, $6) on conflict (key) do nothing`, ref, key, amount, currency, method, Created)
		if err := tx.QueryRow(ctx, `select ref from simulator.intents where key = $1`, key).Scan(&ref); err != nil {
			return err
		}
		note(tx, "create", ref, key, string(Created))
		return nil
	})
	return ref, err
}

// Confirm charges an intent as its method decides.
func (s *Simulator) Confirm(ctx context.Context, ref string) (payment.Outcome, error) {
	var out payment.Outcome
	var answer error
	err := s.change(ctx, "confirm", ref, func(i *Intent) string {
		if out, answer = i.Confirm(); answer != nil {
			return answer.Error()
		}
		return string(out.Result)
	})
	if err != nil {
		return payment.Outcome{}, err
	}
	if errors.Is(answer, ErrTimeout) {
		wait(ctx, patience)
	}
	return out, answer
}

// Void cancels an intent or refunds its charge.
func (s *Simulator) Void(ctx context.Context, ref string) (payment.Outcome, error) {
	var out payment.Outcome
	err := s.change(ctx, "void", ref, func(i *Intent) string {
		out = i.Void()
		return string(out.Result)
	})
	return out, err
}

// change applies a rule to an intent, whose row is locked meanwhile, and writes
// into the books what it changed.
func (s *Simulator) change(ctx context.Context, operation, ref string, rule func(*Intent) (result string)) error {
	return s.call(ctx, func(tx *outbox.Tx) error {
		var i Intent
		var key, currency string
		var amount int64
		err := tx.QueryRow(ctx, `select key, amount, currency, method, status, confirms from simulator.intents
			where ref = $1 for update`, ref).Scan(&key, &amount, &currency, &i.Method, &i.State, &i.Confirms)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("there is no intent %.64q", ref)
		}
		if err != nil {
			return err
		}
		before := i
		note(tx, operation, ref, key, rule(&i))
		if i == before {
			return nil
		}
		tx.Queue(`update simulator.intents set status = $2, confirms = $3 where ref = $1`, ref, i.State, i.Confirms)
		if i.State == before.State {
			return nil
		}
		switch i.State {
		case IsCharged:
			tx.Queue(`insert into simulator.charges (ref, key, amount, currency) values ($1, $2, $3, $4)`, ref, key, amount, currency)
		case IsRefunded:
			tx.Queue(`insert into simulator.voids (ref, key, kind, amount, currency) values ($1, $2, 'refund', $3, $4)`, ref, key, amount, currency)
		case IsVoided:
			tx.Queue(`insert into simulator.voids (ref, key, kind, amount, currency) values ($1, $2, 'cancel', 0, $3)`, ref, key, currency)
		}
		return nil
	})
}

func note(tx *outbox.Tx, operation, ref, key, result string) {
	tx.Queue(`insert into simulator.calls (operation, ref, key, result) values ($1, $2, $3, $4)`, operation, ref, key, result)
}

func (s *Simulator) call(ctx context.Context, act func(tx *outbox.Tx) error) error {
	wait(ctx, s.latency/2)
	if err := s.db.InTx(ctx, act); err != nil {
		return fmt.Errorf("simulator: %w", err)
	}
	wait(ctx, s.latency/2)
	return ctx.Err() // the caller gave up; what was done stays done
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
