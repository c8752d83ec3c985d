// Package authn verifies access tokens: RS256 JWTs (RFC 9068) against keys that
// the auth-service publishes as a JWKS. The gateway and each service use it, so
// that a service asked directly refuses the same tokens.
package authn

import (
	"context"
	"crypto/rsa"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// Role is what a user may do.
type Role string

// The roles.
const (
	Customer Role = "Customer"
	Admin    Role = "Admin"
)

// Principal is who a verified token speaks for.
type Principal struct {
	UserID, SessionID uuid.UUID
	Role              Role
	Expires           time.Time
}

// Config says where keys come from and whose tokens count.
type Config struct {
	JWKSURL  string // "" for a KeySet that the caller fills
	Issuer   string
	Audience string
	// RefreshInterval is how often the keys are fetched; a removed key's tokens
	// are refused after it at the latest.
	RefreshInterval time.Duration
	// Cooldown is the shortest time between two fetches that tokens with an
	// unknown kid cause, all kids together.
	Cooldown time.Duration
	// Now is the clock, time.Now when nil.
	Now func() time.Time
}

// ConfigFrom reads JWKS_URL, JWKS_REFRESH_INTERVAL, JWKS_REFRESH_COOLDOWN,
// JWT_ISSUER and JWT_AUDIENCE.
func ConfigFrom(r *env.Reader) Config {
	return Config{
		JWKSURL:         r.URL("JWKS_URL", "http://localhost:5001/.well-known/jwks.json").String(),
		Issuer:          Issuer(r),
		Audience:        Audience(r),
		RefreshInterval: r.Duration("JWKS_REFRESH_INTERVAL", time.Minute, time.Second, time.Hour),
		Cooldown:        r.Duration("JWKS_REFRESH_COOLDOWN", 10*time.Second, time.Second, time.Hour),
	}
}

// Issuer reads JWT_ISSUER, which the auth-service writes and all others demand.
func Issuer(r *env.Reader) string { return r.String("JWT_ISSUER", "https://tiffin.local") }

// Audience reads JWT_AUDIENCE.
func Audience(r *env.Reader) string { return r.String("JWT_AUDIENCE", "tiffin-api") }

// Verifier tells whether a token is one of ours, and whose. Verified tokens are
// remembered, bounded in count and bytes; their end and their key are checked
// again at every use.
type Verifier struct {
	cfg    Config
	keys   *KeySet
	log    *slog.Logger
	parser *jwt.Parser
	cache  *cache
	client *http.Client

	fetching sync.Mutex // held while keys are fetched, for a few seconds at most

	mu       sync.Mutex
	flight   chan struct{} // open while a fetch for an unknown kid runs
	lastMiss time.Time     // when the last such fetch began

	hits, verified, refused prometheus.Counter
	fetches                 *prometheus.CounterVec
}

// NewVerifier returns a verifier over keys. Run keeps them fresh when
// cfg.JWKSURL is set.
func NewVerifier(cfg Config, keys *KeySet, log *slog.Logger, reg prometheus.Registerer) *Verifier {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RefreshInterval <= 0 {
		cfg.RefreshInterval = time.Minute
	}
	if cfg.Cooldown <= 0 {
		cfg.Cooldown = 10 * time.Second
	}
	count := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tiffin_authn_tokens_total",
		Help: "Access tokens checked: remembered, verified anew, or refused.",
	}, []string{"result"})
	v := &Verifier{
		cfg: cfg, keys: keys, log: log, cache: newCache(), client: newClient(),
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{alg}),
			jwt.WithStrictDecoding(),
			jwt.WithIssuer(cfg.Issuer),
			jwt.WithAudience(cfg.Audience),
			jwt.WithExpirationRequired(),
			jwt.WithIssuedAt(),
			jwt.WithLeeway(Leeway),
			jwt.WithTimeFunc(cfg.Now),
		),
		hits:     count.WithLabelValues("remembered"),
		verified: count.WithLabelValues("verified"),
		refused:  count.WithLabelValues("refused"),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_authn_jwks_fetches_total",
			Help: "Fetches of the signing keys.",
		}, []string{"result"}),
	}
	reg.MustRegister(count, v.fetches)
	return v
}

// Verify returns who token speaks for. Its error is Unauthenticated, or
// Unavailable while there are no keys yet.
func (v *Verifier) Verify(ctx context.Context, token string) (Principal, error) {
	if e, ok := v.cache.get(token); ok {
		if v.alive(e) {
			v.hits.Inc()
			return e.principal, nil
		}
		v.cache.drop(token)
	}
	e, err := v.verify(ctx, token)
	if err != nil {
		v.refused.Inc()
		return Principal{}, err
	}
	v.verified.Inc()
	v.cache.put(strings.Clone(token), e) // it may be a part of something larger
	return e.principal, nil
}

func (v *Verifier) alive(e entry) bool {
	return v.cfg.Now().Before(e.principal.Expires) && v.keys.get(e.kid) == e.key
}

func (v *Verifier) verify(ctx context.Context, token string) (entry, error) {
	if len(token) > maxToken {
		return entry{}, invalid(errors.New("longer than 8 KiB"))
	}
	// Go's base64 skips line breaks, also when strict.
	if strings.ContainsAny(token, "\r\n") {
		return entry{}, invalid(errors.New("line break"))
	}
	kid, err := readHeader(token)
	if err != nil {
		return entry{}, invalid(err)
	}
	key, err := v.key(ctx, kid)
	if err != nil {
		return entry{}, err
	}
	var c Claims
	if _, err := v.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return key, nil }); err != nil {
		return entry{}, invalid(err)
	}
	e := entry{kid: kid, key: key, principal: Principal{
		UserID: c.Subject, SessionID: c.SessionID, Role: c.Role, Expires: time.Unix(c.Expires, 0),
	}}
	if !v.cfg.Now().Before(e.principal.Expires) {
		return entry{}, invalid(jwt.ErrTokenExpired) // within golang-jwt's leeway, which is not for exp
	}
	return e, nil
}

// key finds the key of a kid, fetching the set once when the kid is new.
func (v *Verifier) key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	if key := v.keys.get(kid); key != nil {
		return key, nil
	}
	v.fetchForUnknown(ctx)
	if key := v.keys.get(kid); key != nil {
		return key, nil
	}
	if err := v.Ready(); err != nil {
		return nil, err
	}
	return nil, invalid(errors.New("unknown kid"))
}

// invalid says to the client only what it can act on; the cause is for the log.
func invalid(cause error) *errs.Error {
	e := errs.New(errs.Unauthenticated, "the access token is not valid")
	if errors.Is(cause, jwt.ErrTokenExpired) {
		e.Detail = "the access token has expired"
	}
	e.Err = cause
	return e
}

// Ready returns nil when there are keys to verify with.
func (v *Verifier) Ready() error {
	if v.keys.Len() == 0 {
		return &errs.Error{Kind: errs.Unavailable, Detail: "no signing keys are known yet; try again", RetryAfter: time.Second}
	}
	return nil
}
