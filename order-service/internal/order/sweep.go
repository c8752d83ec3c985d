package order

import (
	"context"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

const (
	sweepEvery = time.Second
	pruneEvery = time.Minute
	sweepBatch = 100  // orders cancelled in one transaction
	pruneBatch = 1000 // keys forgotten in one transaction
)

// Run cancels orders whose payment is overdue and forgets old idempotency keys,
// until ctx ends. Every replica runs it; they share the work. Its failures are
// logged and tried again: the database being down ends nothing.
func (s *Service) Run(ctx context.Context) error {
	sweep, prune := time.NewTicker(sweepEvery), time.NewTicker(pruneEvery)
	defer sweep.Stop()
	defer prune.Stop()
	for {
		var (
			what string
			n    int
			err  error
		)
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			what = "overdue orders cancelled"
			n, err = s.CancelOverdue(ctx)
		case <-prune.C:
			what = "idempotency keys forgotten"
			n, err = s.PruneKeys(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.log.WarnContext(ctx, "order upkeep, trying again", "what", what, "error", err.Error())
		case n > 0:
			s.log.InfoContext(ctx, "order upkeep", "what", what, "count", n)
		}
	}
}

// CancelOverdue cancels every pending order that is past its payment deadline,
// so that a saga ends whatever happened to its payment, and tells how many.
func (s *Service) CancelOverdue(ctx context.Context) (int, error) {
	total := 0
	for {
		n := 0
		err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
			overdue, err := lockOverdue(ctx, tx, instant(s.now()), sweepBatch)
			if err != nil {
				return err
			}
			for i := range overdue {
				if err := s.move(ctx, tx, &overdue[i], Cancelled, PaymentTimeout, ""); err != nil {
					return err
				}
			}
			n = len(overdue)
			return nil
		})
		if err != nil {
			return total, err
		}
		total += n
		if n < sweepBatch {
			return total, nil
		}
	}
}

// PruneKeys forgets the idempotency keys that are past their time, and tells
// how many.
func (s *Service) PruneKeys(ctx context.Context) (int, error) {
	total := 0
	for {
		n := 0
		err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
			var err error
			n, err = deleteKeys(ctx, tx, instant(s.now()).Add(-keyLife), pruneBatch)
			return err
		})
		if err != nil {
			return total, err
		}
		total += n
		if n < pruneBatch {
			return total, nil
		}
	}
}
