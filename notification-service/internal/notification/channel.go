package notification

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"
)

// Message is a notification on its way to one address.
type Message struct {
	ID          uuid.UUID // the notification's; the same at every attempt
	UserID      uuid.UUID
	Kind        Kind
	To          string // a bare address
	Name        string // the user's own text: never for a mail's head
	Title, Body string
	CreatedAt   time.Time
}

// Channel hands messages to people. Send is called at least once per
// notification, outside any transaction; an error that wraps ErrRefused says
// that trying again is useless.
type Channel interface {
	Name() string
	Send(ctx context.Context, m Message) error
}

// ErrRefused says that the other side will not take this message, ever.
var ErrRefused = errors.New("message refused")

// Log is the channel that writes to the service's log, for development and for
// systems whose users look at the API only.
type Log struct{ log *slog.Logger }

// NewLog returns the log channel.
func NewLog(log *slog.Logger) *Log { return &Log{log} }

// Name returns "log".
func (*Log) Name() string { return "log" }

// Send writes the message without the address, which logs should not hold.
func (c *Log) Send(ctx context.Context, m Message) error {
	c.log.InfoContext(ctx, "notification delivered", "notification_id", m.ID.String(), "user_id", m.UserID.String(),
		"kind", string(m.Kind), "title", m.Title, "body", m.Body)
	return nil
}
