// Package authntest gives tests of services tokens without an auth-service: a
// signing key, a verifier that knows it, and tokens for any user and role.
package authntest

import (
	"crypto/rand"
	"crypto/rsa"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

// What the tokens and verifiers of this package say.
const (
	KeyID        = "test-key"
	TestIssuer   = "https://tiffin.test"
	TestAudience = "tiffin-test"
)

// makeKey makes one key per test binary: making an RSA key takes a while.
var makeKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// Issuer signs tokens.
type Issuer struct {
	Key *rsa.PrivateKey
	t   testing.TB
}

// New returns an issuer. All issuers of a test binary share one key.
func New(t testing.TB) *Issuer {
	t.Helper()
	key, err := makeKey()
	require.NoError(t, err)
	return &Issuer{Key: key, t: t}
}

// Verifier returns a verifier that accepts the issuer's tokens. It needs no Run.
func (i *Issuer) Verifier() *authn.Verifier {
	keys := authn.NewKeySet()
	keys.Set(map[string]*rsa.PublicKey{KeyID: &i.Key.PublicKey})
	return authn.NewVerifier(authn.Config{Issuer: TestIssuer, Audience: TestAudience}, keys,
		slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// Claims returns the claims of a good token, valid for 15 minutes, in a new session.
func (i *Issuer) Claims(user uuid.UUID, role authn.Role) authn.Claims {
	now := time.Now()
	return authn.Claims{
		Issuer: TestIssuer, Audience: []string{TestAudience},
		Subject: user, Role: role, SessionID: uuid.Must(uuid.NewV7()), ID: uuid.NewString(),
		IssuedAt: now.Unix(), Expires: now.Add(15 * time.Minute).Unix(),
	}
}

// Token returns a good token.
func (i *Issuer) Token(user uuid.UUID, role authn.Role) string {
	i.t.Helper()
	return i.Mint(i.Claims(user, role))
}

// Mint returns a token with these claims.
func (i *Issuer) Mint(c authn.Claims) string {
	i.t.Helper()
	token, err := authn.Mint(i.Key, KeyID, c)
	require.NoError(i.t, err)
	return token
}

// Server publishes the issuer's key as a JWKS and returns its URL: for tests
// that boot a whole service, with JWKS_URL, JWT_ISSUER and JWT_AUDIENCE.
func (i *Issuer) Server() string {
	i.t.Helper()
	body, err := json.Marshal(authn.JWKS{Keys: []authn.JWK{authn.NewJWK(KeyID, &i.Key.PublicKey)}})
	require.NoError(i.t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(body)
	}))
	i.t.Cleanup(srv.Close)
	return srv.URL + "/.well-known/jwks.json"
}
