package kafkatest

import (
	"testing"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Apply hands e to sub once, without a broker: Prepare, then Load and Apply in a
// transaction that commits unless there is an error, which it returns. Nothing
// remembers that e was handled; call it twice to see what a handler does with an
// event of the same meaning.
func Apply(t testing.TB, db *outbox.DB, sub kafka.Subscription, e event.Event) error {
	t.Helper()
	var prepared any
	if sub.Prepare != nil {
		var err error
		if prepared, err = sub.Prepare(t.Context(), e); err != nil {
			return err
		}
	}
	return db.InTx(t.Context(), func(tx *outbox.Tx) error {
		if sub.Load != nil {
			if err := sub.Load(t.Context(), tx, []event.Event{e}); err != nil {
				return err
			}
		}
		return sub.Apply(t.Context(), tx, e, prepared)
	})
}

// Find returns the subscription to an event type, for Apply.
func Find(t testing.TB, subs []kafka.Subscription, topic string) kafka.Subscription {
	t.Helper()
	for _, s := range subs {
		if s.Topic == topic {
			return s
		}
	}
	t.Fatalf("no subscription to %s", topic)
	return kafka.Subscription{}
}
