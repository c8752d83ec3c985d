package measure

import (
	"context"
	"time"
)

// Pace calls do(i, due) at a fixed rate for i from 0 to n-1, each in a
// goroutine of its own: an open loop, in which a slow answer does not slow down
// what comes after it. due is when the call was to be made, and latencies count
// from there; so what the system does not take in time is not left out. It
// returns when all calls were made, not when they have ended.
func Pace(ctx context.Context, perSecond float64, n int, do func(i int, due time.Time)) {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for i := range n {
		due := began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		} else if ctx.Err() != nil {
			return
		}
		go do(i, due)
	}
}

// Wait waits for d or the end of ctx.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Until calls ok every few milliseconds until it is true.
func Until(ctx context.Context, ok func() (bool, error)) error {
	for {
		is, err := ok()
		if err != nil || is {
			return err
		}
		if err := Wait(ctx, 3*time.Millisecond); err != nil {
			return err
		}
	}
}
