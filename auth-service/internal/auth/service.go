package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Source is the name under which events are emitted.
const Source = "auth-service"

// Config holds what operators may set.
type Config struct {
	Issuer, Audience string        // of access tokens
	AccessTTL        time.Duration // of an access token
	RefreshTTL       time.Duration // of a refresh token, from each rotation on
	RefreshGrace     time.Duration // in which a rotated token may come again
	AuditRetention   time.Duration
	HashConcurrency  int // passwords hashed at once; 0: one per core, at least 2
}

// Service does what users and admins ask for. One method is one use case.
type Service struct {
	db     *outbox.DB
	keys   *Keys
	cfg    Config
	hasher *hasher
	now    func() time.Time
	log    *slog.Logger
	events *prometheus.CounterVec
}

// NewService returns a service that signs with keys.
func NewService(db *outbox.DB, keys *Keys, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Service, error) {
	h, err := newHasher(cfg.HashConcurrency)
	if err != nil {
		return nil, err
	}
	s := &Service{
		db: db, keys: keys, cfg: cfg, hasher: h, now: time.Now, log: log,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_auth_events_total",
			Help: "Security events, as in the table audit_log; login_throttled is counted here only.",
		}, []string{"kind"}),
	}
	reg.MustRegister(s.events)
	return s, nil
}

// Register makes an account with the role Customer.
func (s *Service) Register(ctx context.Context, n NewUser, from Client) (User, error) {
	n, err := n.check()
	if err != nil {
		return User{}, err
	}
	return s.create(ctx, n, authn.Customer, from, nil)
}

// create stores a user and, in the same transaction, the event that says so.
func (s *Service) create(ctx context.Context, n NewUser, role authn.Role, from Client, guard func(*outbox.Tx) error) (User, error) {
	hash, err := s.hasher.hash(ctx, n.Password)
	if err != nil {
		return User{}, err
	}
	u := User{ID: uuid.Must(uuid.NewV7()), Email: n.Email, Name: n.Name, Role: role, CreatedAt: s.now().UTC().Truncate(time.Microsecond)}
	err = s.db.InTx(ctx, func(tx *outbox.Tx) error {
		if guard != nil {
			if err := guard(tx); err != nil {
				return err
			}
		}
		if err := insertUser(ctx, tx, u, hash); err != nil {
			return err
		}
		s.audit(tx, audit{Kind: "user_registered", User: u.ID, Client: from, Detail: map[string]any{"role": role}})
		tx.Emit(ctx, event.New(Source, event.UserRegistered{UserID: u.ID, Email: u.Email, Name: u.Name, RegisteredAt: u.CreatedAt}))
		return nil
	})
	return u, err
}

// CheckAdmin tells whether EnsureAdmin can make an account with these.
func CheckAdmin(email, password string) error {
	_, err := NewUser{Email: email, Password: password, Name: adminName}.check()
	return err
}

const adminName = "Admin"

var errHaveAdmin = errors.New("there is an Admin")

// EnsureAdmin makes the first Admin. Where there is an Admin it does nothing,
// also when another replica just made him. An account that somebody registered
// under this address is not promoted: its password is somebody else's.
func (s *Service) EnsureAdmin(ctx context.Context, email, password string) error {
	n, err := NewUser{Email: email, Password: password, Name: adminName}.check()
	if err != nil {
		return err
	}
	admins, err := countAdmins(ctx, s.db.Pool)
	if err != nil || admins > 0 {
		return err
	}
	u, err := s.create(ctx, n, authn.Admin, Client{}, func(tx *outbox.Tx) error {
		if err := lockRoles(ctx, tx); err != nil {
			return err
		}
		if admins, err := countAdmins(ctx, tx); err != nil {
			return err
		} else if admins > 0 {
			return errHaveAdmin
		}
		return nil
	})
	switch {
	case errors.Is(err, errHaveAdmin):
		return nil
	case errs.KindOf(err) == errs.Conflict:
		s.log.ErrorContext(ctx, "no first Admin: AUTH_ADMIN_EMAIL belongs to an account that was registered; set another address")
		return nil
	case err == nil:
		s.log.InfoContext(ctx, "first Admin made", "user_id", u.ID.String())
	}
	return err
}

// User returns an account.
func (s *Service) User(ctx context.Context, id uuid.UUID) (User, error) {
	return selectUser(ctx, s.db.Pool, id)
}

// Users lists accounts, newest first; with an e-mail address only that one's.
func (s *Service) Users(ctx context.Context, email string, before uuid.UUID, limit int) ([]User, error) {
	if email != "" && emailProblem(email) != "" {
		return nil, nil // nobody has such an address, and PostgreSQL might not take it as text
	}
	return selectUsers(ctx, s.db.Pool, email, before, limit)
}

// SetRole changes what a user may do from his next access token on. The actor
// has to be an Admin now, not only when his token was made.
func (s *Service) SetRole(ctx context.Context, actor, id uuid.UUID, name string, from Client) (User, error) {
	role, err := checkRole(name)
	if err != nil {
		return User{}, err
	}
	var u User
	err = s.db.InTx(ctx, func(tx *outbox.Tx) error {
		if err := lockRoles(ctx, tx); err != nil {
			return err
		}
		// The token may be older than its owner's demotion: whoever is no Admin
		// any more could make himself one again.
		by, err := selectUser(ctx, tx, actor)
		if err != nil {
			return err
		}
		if by.Role != authn.Admin {
			return errs.New(errs.Forbidden, "you are no Admin any more")
		}
		if u, err = selectUser(ctx, tx, id); err != nil {
			return err
		}
		if u.Role == role {
			return nil
		}
		if u.Role == authn.Admin {
			if admins, err := countAdmins(ctx, tx); err != nil {
				return err
			} else if admins == 1 {
				return errs.New(errs.Conflict, "this is the last Admin; make another one first")
			}
		}
		updateRole(tx, id, role)
		s.audit(tx, audit{Kind: "role_changed", User: id, Actor: actor, Client: from, Detail: map[string]any{"from": u.Role, "to": role}})
		u.Role = role
		return nil
	})
	return u, err
}

// issue signs an access token and makes a refresh token for a session. The
// caller stores the hash.
func (s *Service) issue(user uuid.UUID, role authn.Role, session uuid.UUID) (t Tokens, hash []byte, err error) {
	key, err := s.keys.signer()
	if err != nil {
		return t, nil, err
	}
	now := s.now()
	expires := now.Add(s.cfg.AccessTTL)
	if key.VerifyUntil.Before(expires) { // made when AccessTTL was shorter
		expires = key.VerifyUntil
	}
	t = Tokens{AccessExpires: expires.Sub(now), RefreshTTL: s.cfg.RefreshTTL}
	t.Access, err = authn.Mint(key.Key, key.ID, authn.Claims{
		Issuer: s.cfg.Issuer, Audience: []string{s.cfg.Audience},
		Subject: user, Role: role, SessionID: session, ID: uuid.Must(uuid.NewV7()).String(),
		IssuedAt: now.Unix(), Expires: expires.Unix(),
	})
	if err != nil {
		return t, nil, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return t, nil, fmt.Errorf("make refresh token: %w", err)
	}
	t.Refresh = base64.RawURLEncoding.EncodeToString(secret)
	return t, hashRefresh(t.Refresh), nil
}

// hashRefresh is how a refresh token is stored: it is random enough that a
// plain hash cannot be searched.
func hashRefresh(token string) []byte {
	h := sha256.Sum256([]byte(token))
	return h[:]
}

// audit adds a row to the security log, in the transaction of what it tells.
func (s *Service) audit(tx *outbox.Tx, a audit) {
	insertAudit(tx, a)
	s.events.WithLabelValues(a.Kind).Inc()
}

const pruneEvery = 10 * time.Minute

// Prune removes ended sessions and tokens and old audit rows until ctx ends.
func (s *Service) Prune(ctx context.Context) error {
	for {
		more, err := prune(ctx, s.db.Pool, s.now().Add(-s.cfg.AuditRetention))
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "ended sessions not removed, trying again", "error", err.Error())
		}
		wait := pruneEvery
		if more {
			wait = time.Second // leaves room for users
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}
