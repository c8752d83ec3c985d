package outbox_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// sent counts the batches that a relay sends.
func sent(relay *outbox.Relay) *atomic.Int64 {
	var batches atomic.Int64
	relay.At(func(at string) {
		if at == "before produce" {
			batches.Add(1)
		}
	})
	return &batches
}

// Under load the relay reads at its pace, and so publishes many events at once.
func TestAtItsPaceTheRelayPublishesManyEventsTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.bell.Run)
	const pace = 100 * time.Millisecond
	relay := w.relay(outbox.RelayConfig{Pace: pace})
	batches := sent(relay)
	run(t, relay.Run)
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	began := time.Now()
	for range 100 {
		w.emit("k")
	}
	w.drained()
	require.LessOrEqual(t, batches.Load(), 2+int64(time.Since(began)/pace))
}

// What a batch emitted does not wait for the pace of single events, and has one
// of its own.
func TestTheEventsOfABatchHaveAPaceOfTheirOwn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pace    time.Duration // of batches
		batches int           // one of 20 events
	}{
		"batches wait for each other": {100 * time.Millisecond, 20},
		"single events for a batch":   {time.Millisecond, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			run(t, w.bell.Run)
			relay := w.relay(outbox.RelayConfig{Pace: time.Hour, BatchPace: c.pace})
			batches := sent(relay)
			run(t, relay.Run)
			require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
			began := time.Now()
			for i := range 20 {
				w.emit("k")
				if i < 20-c.batches {
					continue
				}
				s, err := w.db.Begin(t.Context(), nil)
				require.NoError(t, err)
				s.Tx().Emit(t.Context(), newEvent("k"))
				require.NoError(t, s.Commit(t.Context()))
			}
			w.drained()
			// The doorbell, when it begins, wakes all as well.
			require.LessOrEqual(t, batches.Load(), 3+min(int64(c.batches), 1+int64(time.Since(began)/c.pace)))
		})
	}
}

// Two keys are rung for what a batch emitted, and one read answers both.
func TestTheRelayReadsOncePerBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.bell.Run)
	relay := w.relay(outbox.RelayConfig{PollMax: time.Hour})
	reads := outbox.Reads(relay)
	run(t, relay.Run)
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	const batches = 20
	for range batches {
		s, err := w.db.Begin(t.Context(), nil)
		require.NoError(t, err)
		s.Tx().Emit(t.Context(), newEvent("k"))
		require.NoError(t, s.Commit(t.Context()))
		w.drained()
	}
	// One when it begins to lead; the doorbell, when it begins, wakes all as well.
	require.LessOrEqual(t, reads.Load(), int64(batches+3))
}

// The pace is no delay for what comes alone.
func TestTheFirstEventAfterAQuietTimeDoesNotWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run(t, w.bell.Run)
	run(t, w.relay(outbox.RelayConfig{Pace: time.Hour}).Run)
	require.Eventually(t, func() bool { return w.epoch() == 1 }, patience, time.Millisecond)
	w.emit("k")
	w.drained()
}
