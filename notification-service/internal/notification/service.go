package notification

import (
	"context"
	"embed"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/coalesce"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

// Migrations is the schema of the service's database.
//
//go:embed migrations/*.sql
var Migrations embed.FS

// Source is the service's name in the events it writes.
const Source = "notification-service"

// Service is what the notification service does, one method per use case.
type Service struct {
	db       *outbox.DB
	bell     *postgres.Doorbell
	channel  Channel
	messages *coalesce.Calls[uuid.UUID, found]
	streams  *coalesce.Calls[position, []Notification]
	now      func() time.Time
}

// NewService returns the service, which delivers through channel.
func NewService(db *outbox.DB, bell *postgres.Doorbell, channel Channel) *Service {
	return &Service{
		db: db, bell: bell, channel: channel, now: time.Now,
		messages: coalesce.New(100, callTime, func(ctx context.Context, ids []uuid.UUID) ([]found, error) {
			return findMessages(ctx, db.Pool, ids)
		}),
		streams: coalesce.New(100, callTime, func(ctx context.Context, at []position) ([][]Notification, error) {
			return listAfter(ctx, db.Pool, at, page)
		}),
	}
}

const (
	callTime = 10 * time.Second // for one read of what deliveries or streams ask for
	page     = 100              // notifications that a stream reads at once
)

// Notify stores the notification that e is the source of and asks for its
// delivery, in the consumer's transaction.
func (s *Service) Notify(ctx context.Context, tx *outbox.Tx, e event.Event, n Notice) error {
	id := idOf(e, n.UserID, n.Kind)
	insertNotification(tx, id, e.ID, n, s.now())
	s.requestDelivery(ctx, tx, id, n.UserID, n.OrderID)
	tx.Ring(bellKey(n.UserID))
	return nil
}

// Register stores the contact of a new user, welcomes the user, and asks again
// for the deliveries that waited for the address.
func (s *Service) Register(ctx context.Context, tx *outbox.Tx, e event.Event, p event.UserRegistered) error {
	welcome, err := OfUserRegistered(p)
	if err != nil {
		return err
	}
	if err := saveContact(ctx, tx, p.UserID, p.Email, p.Name); err != nil {
		return err
	}
	released, err := releaseWaiting(ctx, tx, p.UserID)
	if err != nil {
		return err
	}
	if err := s.Notify(ctx, tx, e, welcome); err != nil {
		return err
	}
	for _, w := range released {
		s.requestDelivery(ctx, tx, w.NotificationID, p.UserID, w.OrderID)
	}
	return nil
}

func (s *Service) requestDelivery(ctx context.Context, tx *outbox.Tx, id, user uuid.UUID, order *uuid.UUID) {
	tx.Emit(ctx, event.New(Source, event.NotificationDeliveryRequested{
		NotificationID: id, OrderID: order, UserID: user, Channel: s.channel.Name(), RequestedAt: s.now().UTC(),
	}))
}

// Attempt is how an attempt to deliver ended when it did not fail.
type Attempt int

// The ends of an attempt.
const (
	Sent      Attempt = iota + 1
	Known             // delivered before; nothing was sent
	NoAddress         // the contact has no address yet; nothing was sent
)

// Deliver sends a notification through the channel, outside any transaction.
// It sends nothing that was recorded as delivered. A crash between the channel's
// success and RecordAttempt sends again: that is the channel's "at least once".
// The channel of this process delivers, whichever one the request names: a
// request that was waiting while the setting changed is not lost.
func (s *Service) Deliver(ctx context.Context, p event.NotificationDeliveryRequested) (Attempt, error) {
	m, err := s.messages.Do(ctx, p.NotificationID)
	switch {
	case err != nil:
		return 0, err
	case !m.exists:
		return 0, fmt.Errorf("%w: notification %s does not exist", ErrUnusable, p.NotificationID)
	case m.delivered:
		return Known, nil
	case m.To == "":
		return NoAddress, nil
	}
	if err := s.channel.Send(ctx, m.Message); err != nil {
		return 0, err
	}
	return Sent, nil
}

// RecordAttempt records how Deliver ended, in the consumer's transaction. A
// delivery without an address waits until Register releases it; when the
// address came between Deliver and now, it is asked for again.
func (s *Service) RecordAttempt(ctx context.Context, tx *outbox.Tx, p event.NotificationDeliveryRequested, a Attempt) error {
	switch a {
	case Sent:
		recordDelivery(tx, p.NotificationID, p.UserID, "delivered", s.channel.Name(), s.now())
	case NoAddress:
		has, err := hasAddress(ctx, tx, p.UserID)
		if err != nil {
			return err
		}
		if has {
			s.requestDelivery(ctx, tx, p.NotificationID, p.UserID, p.OrderID)
			return nil
		}
		recordDelivery(tx, p.NotificationID, p.UserID, "waiting", s.channel.Name(), s.now())
	}
	return nil
}

// List returns up to limit of the user's notifications below the number before
// (0 for the newest), newest first.
func (s *Service) List(ctx context.Context, user uuid.UUID, before int64, unread bool, limit int) ([]Notification, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	return listBefore(ctx, s.db.Pool, user, before, unread, limit)
}

// MarkRead marks one of the user's notifications as read; again changes nothing.
func (s *Service) MarkRead(ctx context.Context, user, id uuid.UUID) error {
	return s.db.InTx(ctx, func(tx *outbox.Tx) error {
		found, err := markRead(ctx, tx, user, id, s.now())
		if err == nil && !found {
			err = errs.New(errs.NotFound, "there is no notification with this id")
		}
		return err
	})
}

// Follower is one reader of a user's stream.
type Follower struct {
	s  *Service
	at position
}

// Follow begins a stream with what is unread now.
func (s *Service) Follow(ctx context.Context, user uuid.UUID) (*Follower, error) {
	end, err := lastSeq(ctx, s.db.Pool, user)
	return &Follower{s, position{user: user, known: end}}, err
}

// Resume begins a stream after the notification numbered last, or, when no such
// number was given yet (as after a restore of the database), at the end.
func (s *Service) Resume(ctx context.Context, user uuid.UUID, last int64) (*Follower, error) {
	end, err := lastSeq(ctx, s.db.Pool, user)
	return &Follower{s, position{user: user, after: min(last, end)}}, err
}

// Next returns what is new, oldest first, and moves on. With more, it was not
// all of it.
func (f *Follower) Next(ctx context.Context) (list []Notification, more bool, err error) {
	if list, err = f.s.streams.Do(ctx, f.at); err != nil || len(list) == 0 {
		return nil, false, err
	}
	f.at.after = list[len(list)-1].Seq
	return list, len(list) == page, nil
}

// Wake returns a channel that receives when the user may have something new,
// also from other replicas; see postgres.Doorbell.
func (s *Service) Wake(user uuid.UUID) (wake <-chan struct{}, stop func()) {
	return s.bell.Subscribe(bellKey(user))
}

func bellKey(user uuid.UUID) string { return "notifications:" + user.String() }
