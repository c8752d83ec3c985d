package payment

import (
	"context"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

const (
	sweepEvery    = 5 * time.Second
	sweepBatch    = 100 // payments asked for again in one transaction
	maxRefundWait = time.Hour
)

// refundWait is how long after the nth request the next one follows.
func (s *Service) refundWait(n int) time.Duration {
	wait := s.cfg.RefundRetry
	for i := 1; i < n && wait < maxRefundWait; i++ {
		wait *= 2
	}
	return max(min(wait, maxRefundWait), s.cfg.RefundRetry)
}

// Run asks again for voids and refunds that have not ended, until ctx ends.
// Every replica runs it; they share the work. Its failures are logged and tried
// again: the database being down ends nothing.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(min(sweepEvery, s.cfg.RefundRetry))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		n, err := s.SweepRefunds(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.log.WarnContext(ctx, "refund sweep, trying again", "error", err.Error())
		case n > 0:
			s.log.WarnContext(ctx, "refunds that did not end are asked for again", "count", n)
		}
	}
}

// SweepRefunds emits payment.refund_requested again, as a new event, for every
// payment whose void or refund should have ended by now, and tells how many.
// The request before may be lost for good: its event may be a dead letter.
func (s *Service) SweepRefunds(ctx context.Context) (int, error) {
	total := 0
	for {
		n := 0
		err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
			due, err := lockDue(ctx, tx, s.instant(), sweepBatch)
			if err != nil {
				return err
			}
			for _, p := range due {
				p.UpdatedAt = s.instant()
				s.tell(ctx, tx, p, []Fact{FactRefundRequested})
			}
			n = len(due)
			return nil
		})
		if err != nil {
			return total, err
		}
		total += n
		if n == sweepBatch {
			continue
		}
		open, err := countOpen(ctx, s.db.Pool)
		if err == nil {
			s.open.Set(float64(open))
		}
		return total, err
	}
}
