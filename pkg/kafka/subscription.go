package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Subscription is what a group does with the events of one topic.
//
// Consumer is the number under which the outcome of each event is remembered:
// unique within the service, written beside the subscription, never reused for
// another meaning.
type Subscription struct {
	Consumer int16
	Topic    string // also the type of its events

	// Linger is how long a small batch waits at most for those of other partitions
	// and topics to share its transaction, as with PostgreSQL's commit_delay; 0 by
	// default. Worth a few milliseconds where records come in bursts, and more where
	// nobody waits for them: they go along with the next that are due. Batches that
	// prepare and those that do not share nothing. One from a retry topic lingers as
	// its first record does. It has to be below 50 ms: a batch that waited that long
	// goes alone.
	Linger time.Duration
	// Prepare, if any, talks to the outside world (a card provider, a mail
	// server), outside of any transaction and concurrently for distinct keys. Its
	// calls are made at least once: again after a crash or a rebalance. What it
	// returns is handed to Apply.
	Prepare func(ctx context.Context, e event.Event) (any, error)
	// Load, if any, reads through tx what Apply may need, for all events of one
	// transaction at once instead of one round trip each, and keeps it there (see
	// outbox.Keep). Its first statement comes in the round trip that begins the
	// transaction. That is before it is known which events were handled before: it
	// gets those too, and should leave alone what it cannot make use of. An error is
	// that of all of them, and they are tried again in smaller batches.
	Load func(ctx context.Context, tx *outbox.Tx, events []event.Event) error
	// Apply writes to the database through tx; its writes and emitted events
	// happen exactly once per event, or not at all when it returns an error. It
	// must not do anything else: it runs inside a transaction that holds other
	// events too, and is run again when one of those fails.
	Apply func(ctx context.Context, tx *outbox.Tx, e event.Event, prepared any) error
}

// On returns a subscription whose handler only writes to the database.
func On[P any](consumer int16, topic string,
	apply func(ctx context.Context, tx *outbox.Tx, e event.Event, p P) error,
) Subscription {
	return Subscription{
		Consumer: consumer, Topic: topic,
		Apply: func(ctx context.Context, tx *outbox.Tx, e event.Event, _ any) error {
			p, err := decode[P](e)
			if err != nil {
				return err
			}
			return apply(ctx, tx, e, p)
		},
	}
}

// OnPrepared returns a subscription with a call to the outside world: what
// prepare returns is handed to apply.
func OnPrepared[P, R any](consumer int16, topic string,
	prepare func(ctx context.Context, e event.Event, p P) (R, error),
	apply func(ctx context.Context, tx *outbox.Tx, e event.Event, p P, r R) error,
) Subscription {
	type result struct {
		payload P
		value   R
	}
	return Subscription{
		Consumer: consumer, Topic: topic,
		Prepare: func(ctx context.Context, e event.Event) (any, error) {
			p, err := decode[P](e)
			if err != nil {
				return nil, err
			}
			r, err := prepare(ctx, e, p)
			if err != nil {
				return nil, err
			}
			return result{p, r}, nil
		},
		Apply: func(ctx context.Context, tx *outbox.Tx, e event.Event, prepared any) error {
			r, ok := prepared.(result)
			if !ok {
				return Permanent(fmt.Errorf("%s: nothing was prepared", e.Type)) // a defect of the caller
			}
			return apply(ctx, tx, e, r.payload, r.value)
		},
	}
}

// BySubject makes a Load of a function that gets the events' subjects, each once
// and in order, so that all who lock them lock in the same order. Subjects that
// are no UUIDs are left out.
func BySubject(load func(ctx context.Context, tx *outbox.Tx, ids []uuid.UUID) error) func(context.Context, *outbox.Tx, []event.Event) error {
	return func(ctx context.Context, tx *outbox.Tx, events []event.Event) error {
		ids := make([]uuid.UUID, 0, len(events))
		for _, e := range events {
			if id, err := uuid.Parse(e.Subject); err == nil {
				ids = append(ids, id)
			}
		}
		slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
		return load(ctx, tx, slices.Compact(ids))
	}
}

func decode[P any](e event.Event) (P, error) {
	p, err := event.Decode[P](e)
	if err != nil {
		return p, &classified{class: classUndecodable, err: err}
	}
	return p, nil
}

// Permanent marks an error that no retry can cure: the event is dead-lettered
// at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &classified{class: classPermanent, err: err}
}

// classified is an error whose class its origin decided.
type classified struct {
	class class
	err   error
}

func (e *classified) Error() string { return e.err.Error() }
func (e *classified) Unwrap() error { return e.err }

func validate(subs []Subscription) error {
	if len(subs) == 0 {
		return errors.New("kafka: a consumer without subscriptions")
	}
	topics, numbers := map[string]bool{}, map[int16]bool{}
	for _, s := range subs {
		switch {
		case s.Topic == "" || s.Apply == nil || s.Consumer <= 0:
			return fmt.Errorf("kafka: subscription %d to %q needs a positive number, a topic and Apply", s.Consumer, s.Topic)
		case topics[s.Topic]:
			return fmt.Errorf("kafka: two subscriptions to %s", s.Topic)
		case numbers[s.Consumer]:
			return fmt.Errorf("kafka: two subscriptions are consumer %d", s.Consumer)
		}
		topics[s.Topic], numbers[s.Consumer] = true, true
	}
	return nil
}
