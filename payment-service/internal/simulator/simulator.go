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
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/coalesce"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Name is what payments carry as their provider.
const Name = "simulator"

// patience is how long a call of the Timeout token waits for nothing.
const patience = time.Second

// actTime bounds one transaction in the books.
const actTime = 10 * time.Second

// Simulator is a payment.Provider. Calls that come at the same time share a
// transaction.
type Simulator struct {
	creates *coalesce.Calls[order, string]
	changes *coalesce.Calls[change, answer]
	latency time.Duration
}

// New returns a simulator that keeps its books through pool, which nobody else
// should use, and takes latency for each call: half before it acts, half before
// it answers.
func New(pool *pgxpool.Pool, latency time.Duration) *Simulator {
	db := outbox.NewDB(pool, nil) // only its transactions; a provider writes no events
	return &Simulator{
		creates: coalesce.New(100, actTime, func(ctx context.Context, orders []order) ([]string, error) {
			return create(ctx, pool, orders)
		}),
		changes: coalesce.New(100, actTime, func(ctx context.Context, changes []change) (answers []answer, err error) {
			err = db.InTx(ctx, func(tx *outbox.Tx) error {
				answers, err = apply(ctx, tx, changes)
				return err
			})
			return answers, err
		}),
		latency: latency,
	}
}

// Create makes an intent, or finds the one that it made for key before.
func (s *Simulator) Create(ctx context.Context, key string, amount int64, currency, method string) (string, error) {
	return call(ctx, s, s.creates, order{key, amount, currency, method})
}

// Confirm charges an intent as its method decides.
func (s *Simulator) Confirm(ctx context.Context, ref string) (payment.Outcome, error) {
	a, err := call(ctx, s, s.changes, change{"confirm", ref, (*Intent).Confirm})
	if err != nil {
		return payment.Outcome{}, err
	}
	if errors.Is(a.err, ErrTimeout) {
		wait(ctx, patience)
	}
	return a.Outcome, a.err
}

// Void cancels an intent or refunds its charge.
func (s *Simulator) Void(ctx context.Context, ref string) (payment.Outcome, error) {
	a, err := call(ctx, s, s.changes, change{"void", ref, func(i *Intent) (payment.Outcome, error) { return i.Void(), nil }})
	return a.Outcome, err
}

// call takes the simulator's time for acting.
func call[Q, A any](ctx context.Context, s *Simulator, act *coalesce.Calls[Q, A], q Q) (a A, err error) {
	wait(ctx, s.latency/2)
	if a, err = act.Do(ctx, q); err != nil {
		return a, fmt.Errorf("simulator: %w", err)
	}
	wait(ctx, s.latency/2)
	return a, ctx.Err() // the caller gave up; what was done stays done
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
