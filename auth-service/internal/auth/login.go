package auth

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// errBadLogin is one answer for all: it must not tell whether there is such a user.
func errBadLogin() error {
	return errs.New(errs.Unauthenticated, "wrong e-mail address or password")
}

// Login begins a session. A wrong address and a wrong password take the same
// statements, the same hash and the same time.
func (s *Service) Login(ctx context.Context, email, password string, from Client) (Tokens, error) {
	var missing []errs.Field
	if email == "" {
		missing = append(missing, errs.Field{Pointer: "/email", Detail: "is required"})
	}
	if password == "" {
		missing = append(missing, errs.Field{Pointer: "/password", Detail: "is required"})
	}
	if missing != nil {
		return Tokens{}, errs.BadFields(errs.Invalid, missing...)
	}
	// What no account can have as its address must not reach the database.
	if emailProblem(email) != "" {
		email = "\x7f"
	}
	c, err := selectCredentials(ctx, s.db.Pool, email, from.IP)
	if err != nil {
		return Tokens{}, err
	}
	place := ""
	if c.Familiar {
		place = network(from.IP)
	}
	attempt := buckets(email, from.IP, place)
	ok, upgraded, err := s.try(ctx, attempt, c.Hash, password)
	if err != nil {
		return Tokens{}, err
	}
	if !ok {
		return Tokens{}, s.failed(ctx, audit{Kind: "login_failed", User: c.ID, Client: from}, errBadLogin())
	}
	t, err := s.begin(ctx, c, upgraded, attempt, from)
	if errors.Is(err, errPasswordChanged) {
		t, err = s.beginAgain(ctx, email, password, attempt, from)
	}
	if errors.Is(err, errPasswordChanged) {
		return Tokens{}, errBadLogin()
	}
	return t, err
}

// beginAgain is for a login whose hash was replaced after it was compared: by
// a new password, or by another login of the same user that upgraded it. The
// try is counted already.
func (s *Service) beginAgain(ctx context.Context, email, password string, attempt []bucket, from Client) (Tokens, error) {
	c, err := selectCredentials(ctx, s.db.Pool, email, from.IP)
	if err != nil {
		return Tokens{}, err
	}
	release, err := s.hasher.acquire(ctx)
	if err != nil {
		return Tokens{}, err
	}
	ok, _, err := s.hasher.compare(c.Hash, password)
	release()
	if err != nil {
		return Tokens{}, err
	}
	if !ok {
		return Tokens{}, errPasswordChanged
	}
	return s.begin(ctx, c, "", attempt, from)
}

// try compares a password, bounded by the buckets. The try is counted before
// the password is looked at, so that a thousand at once are not all free, but
// not before it is its turn to be hashed, so that a crowd is not taken for an
// attack. A right one is given back by the caller.
func (s *Service) try(ctx context.Context, attempt []bucket, hash, password string) (ok bool, upgraded string, err error) {
	for _, b := range attempt {
		level, err := selectLevel(ctx, s.db.Pool, b)
		if err != nil {
			return false, "", err
		}
		if level+1 > b.burst {
			return false, "", s.throttled(b, level)
		}
	}
	release, err := s.hasher.acquire(ctx)
	if err != nil {
		return false, "", err
	}
	defer release()
	err = s.db.InTx(ctx, func(tx *outbox.Tx) error {
		for _, b := range attempt {
			if free, err := take(ctx, tx, b); err != nil {
				return err
			} else if !free {
				return s.throttled(b, b.burst)
			}
		}
		return nil
	})
	if err != nil {
		return false, "", err
	}
	return s.hasher.compare(hash, password)
}

// throttled is counted, but not written to the table: whoever floods us must
// not fill it.
func (s *Service) throttled(b bucket, level float64) error {
	s.events.WithLabelValues("login_throttled").Inc()
	return b.throttled(level)
}

func (s *Service) failed(ctx context.Context, a audit, answer error) error {
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		s.audit(tx, a)
		return nil
	})
	if err != nil {
		return err
	}
	return answer
}

func (s *Service) begin(ctx context.Context, c credentials, upgraded string, attempt []bucket, from Client) (Tokens, error) {
	now := s.now().UTC()
	session := Session{ID: uuid.Must(uuid.NewV7()), CreatedAt: now}
	expires := now.Add(s.cfg.RefreshTTL)
	var t Tokens
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		// A password that is being changed ends the sessions it began; this one
		// must be among them or not begin.
		role, err := lockUser(ctx, tx, c.ID, c.Hash)
		if err != nil {
			return err
		}
		if upgraded != "" {
			updateHash(tx, c.ID, upgraded)
		}
		var hash []byte
		if t, hash, err = s.issue(c.ID, role, session.ID); err != nil {
			return err
		}
		insertSession(tx, session, c.ID, from, expires)
		insertRefresh(tx, hash, session.ID, expires)
		tx.Queue(giveBack, bucketKeys(attempt))
		s.audit(tx, audit{Kind: "login", User: c.ID, SessionID: session.ID, Client: from})
		return nil
	})
	return t, err
}

// ChangePassword sets a new password and ends all sessions of the user but the
// one that asks.
func (s *Service) ChangePassword(ctx context.Context, user, session uuid.UUID, currentPassword, newPassword string, from Client) error {
	email, hash, err := selectHash(ctx, s.db.Pool, user)
	if err != nil {
		return err
	}
	var bad []errs.Field
	if currentPassword == "" {
		bad = append(bad, errs.Field{Pointer: "/current_password", Detail: "is required"})
	}
	if problem := passwordProblem(newPassword, email); problem != "" {
		bad = append(bad, errs.Field{Pointer: "/new_password", Detail: problem})
	}
	if bad != nil {
		return errs.BadFields(errs.Invalid, bad...)
	}
	// Whoever holds a stolen token guesses here under the same bounds.
	attempt := buckets(email, from.IP, session.String())
	ok, _, err := s.try(ctx, attempt, hash, currentPassword)
	if err != nil {
		return err
	}
	if !ok {
		return s.failed(ctx, audit{Kind: "password_change_failed", User: user, SessionID: session, Client: from},
			errs.New(errs.Forbidden, "the current password is wrong"))
	}
	next, err := s.hasher.hash(ctx, newPassword)
	if err != nil {
		return err
	}
	err = s.db.InTx(ctx, func(tx *outbox.Tx) error {
		if _, err := lockUser(ctx, tx, user, hash); err != nil {
			return err
		}
		updateHash(tx, user, next)
		ended, err := revokeOthers(ctx, tx, user, session, reasonPassword)
		if err != nil {
			return err
		}
		tx.Queue(giveBack, bucketKeys(attempt))
		s.audit(tx, audit{Kind: "password_changed", User: user, SessionID: session, Client: from, Detail: map[string]any{"sessions_ended": ended}})
		return nil
	})
	if errors.Is(err, errPasswordChanged) {
		return errs.New(errs.Conflict, "the password was changed meanwhile")
	}
	return err
}
