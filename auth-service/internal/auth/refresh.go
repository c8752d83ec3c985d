package auth

import (
	"context"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func errBadRefresh() error {
	return errs.New(errs.Unauthenticated, "the refresh token is not valid; log in again")
}

// Refresh exchanges a refresh token for a new pair, once.
//
// The session's row is locked, so of many with one token the first rotates it
// and the others see that: within the grace (two tabs, a retry) they get a
// Conflict and nothing happens; later it is theft by one side or the other,
// and the session ends for both (RFC 9700 §4.14.2).
func (s *Service) Refresh(ctx context.Context, token string, from Client) (Tokens, error) {
	if token == "" {
		return Tokens{}, errs.BadFields(errs.Invalid, errs.Field{Pointer: "/refresh_token", Detail: "is required"})
	}
	var t Tokens
	var refusal error // decided by the transaction, and committed with what it writes
	old := hashRefresh(token)
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		t, refusal = Tokens{}, nil
		f, found, err := lockFamily(ctx, tx, old)
		if err != nil {
			return err
		}
		if !found || f.Over {
			refusal = errBadRefresh()
			return nil
		}
		state, err := selectToken(ctx, tx, old)
		if err != nil {
			return err
		}
		switch {
		case state.Used && state.Since <= s.cfg.RefreshGrace:
			refusal = errs.New(errs.Conflict, "this refresh token was just used; use the tokens that were given for it")
			return nil
		case state.Used:
			refusal = errBadRefresh()
			if _, err := revokeSession(ctx, tx, f.User, f.Session, reasonReuse); err != nil {
				return err
			}
			s.audit(tx, audit{Kind: "refresh_reuse", User: f.User, SessionID: f.Session, Client: from})
			return nil
		case state.Expired:
			refusal = errBadRefresh()
			return nil
		}
		var next []byte
		if t, next, err = s.issue(f.User, f.Role, f.Session); err != nil {
			return err
		}
		now := s.now().UTC()
		rotate(tx, old, next, f.Session, from, now, now.Add(s.cfg.RefreshTTL))
		return nil
	})
	if err != nil {
		return Tokens{}, err
	}
	return t, refusal
}

// Logout ends the session of a refresh token, also of one that was rotated:
// whoever holds it may end the session, nothing else. Unknown tokens are fine.
func (s *Service) Logout(ctx context.Context, token string, from Client) error {
	if token == "" {
		return errs.BadFields(errs.Invalid, errs.Field{Pointer: "/refresh_token", Detail: "is required"})
	}
	return s.db.InTx(ctx, func(tx *outbox.Tx) error {
		f, found, err := lockFamily(ctx, tx, hashRefresh(token))
		if err != nil || !found {
			return err
		}
		live, err := revokeSession(ctx, tx, f.User, f.Session, reasonLogout)
		if err == nil && live {
			s.audit(tx, audit{Kind: "logout", User: f.User, SessionID: f.Session, Client: from})
		}
		return err
	})
}

// Sessions lists a user's live sessions, newest first.
func (s *Service) Sessions(ctx context.Context, user, before uuid.UUID, limit int) ([]Session, error) {
	return selectSessions(ctx, s.db.Pool, user, before, limit)
}

// EndSession ends one live session of a user. Its access token works until it
// expires; it cannot be refreshed.
func (s *Service) EndSession(ctx context.Context, user, session uuid.UUID, from Client) error {
	return s.db.InTx(ctx, func(tx *outbox.Tx) error {
		live, err := revokeSession(ctx, tx, user, session, reasonRevoked)
		if err != nil {
			return err
		}
		if !live {
			return errs.New(errs.NotFound, "there is no such session")
		}
		s.audit(tx, audit{Kind: "session_revoked", User: user, SessionID: session, Client: from})
		return nil
	})
}
