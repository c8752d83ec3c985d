package authn_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/errs"
)

func TestParseJWKSTakesOnlyKeysForOurTokens(t *testing.T) {
	t.Parallel()
	good := authn.NewJWK("good", &authntest.New(t).Key.PublicKey)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	with := func(change func(*authn.JWK)) authn.JWK {
		k := good
		k.Kid = "bad"
		change(&k)
		return k
	}
	entries := []any{
		good,
		authn.NewJWK("weak", &weak.PublicKey),
		with(func(k *authn.JWK) { k.Kty = "EC" }),
		with(func(k *authn.JWK) { k.Kty = "oct" }),
		with(func(k *authn.JWK) { k.Alg = "RS512" }),
		with(func(k *authn.JWK) { k.Alg = "HS256" }),
		with(func(k *authn.JWK) { k.Use = "enc" }),
		with(func(k *authn.JWK) { k.KeyOps = []string{"encrypt"} }),
		with(func(k *authn.JWK) { k.Kid = "" }),
		with(func(k *authn.JWK) { k.N = "" }),
		with(func(k *authn.JWK) { k.N += "=" }),
		with(func(k *authn.JWK) { k.E = "AQ" }),            // 1
		with(func(k *authn.JWK) { k.E = "BA" }),            // 4
		with(func(k *authn.JWK) { k.E = "AQAAAAAAAAAAB" }), // huge
		map[string]any{"kty": "RSA", "kid": 7, "n": good.N, "e": good.E},
		map[string]any{"kty": "OKP", "crv": "Ed25519", "x": "AA", "n": []int{1}},
		map[string]any{"kty": "RSA", "kid": "ops", "key_ops": "verify", "n": good.N, "e": good.E},
		map[string]any{"kty": "RSA", "kid": "bare", "n": good.N, "e": good.E, "x5c": []string{"AA"}},
		with(func(k *authn.JWK) { k.Kid, k.KeyOps = "with ops", []string{"verify"} }),
	}
	body, err := json.Marshal(map[string]any{"keys": entries})
	require.NoError(t, err)
	keys, err := authn.ParseJWKS(body)
	require.NoError(t, err)
	require.Len(t, keys, 3)
	for _, kid := range []string{"good", "bare", "with ops"} {
		require.True(t, authntest.New(t).Key.PublicKey.Equal(keys[kid]), kid)
	}

	body, err = json.Marshal(authn.JWKS{Keys: []authn.JWK{good, good}})
	require.NoError(t, err)
	_, err = authn.ParseJWKS(body)
	require.ErrorContains(t, err, "twice")
	for _, bad := range []string{``, `[]`, `{"keys":{}}`, `{"keys":[1]}`, `{"keys":[],"keys":[]}`, strings.Repeat(" ", 300<<10)} {
		_, err = authn.ParseJWKS([]byte(bad))
		require.Error(t, err, "%.20s", bad)
	}
}

// issuerServer publishes whatever keys it is told to, or fails, and counts.
type issuerServer struct {
	*httptest.Server
	answer  atomic.Pointer[string]
	fetches atomic.Int64
	hold    chan struct{} // when not nil, an answer waits for it
}

func newIssuerServer(t *testing.T, hold chan struct{}) *issuerServer {
	t.Helper()
	s := &issuerServer{hold: hold}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		if s.hold != nil {
			select {
			case <-s.hold:
			case <-r.Context().Done():
			}
		}
		body := s.answer.Load()
		if body == nil {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(*body))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *issuerServer) publish(t *testing.T, keys ...authn.JWK) {
	t.Helper()
	b, err := json.Marshal(authn.JWKS{Keys: keys})
	require.NoError(t, err)
	body := string(b)
	s.answer.Store(&body)
}

func (s *issuerServer) verifier(cfg authn.Config) *authn.Verifier {
	cfg.JWKSURL, cfg.Issuer, cfg.Audience = s.URL, authntest.TestIssuer, authntest.TestAudience
	return authn.NewVerifier(cfg, authn.NewKeySet(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

func runVerifier(t *testing.T, v *authn.Verifier) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestKeysAreFetchedKeptThroughAnOutageAndDropped(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	s := newIssuerServer(t, nil)
	v := s.verifier(authn.Config{RefreshInterval: 20 * time.Millisecond, Cooldown: time.Hour})
	runVerifier(t, v)
	require.Error(t, v.Ready(), "the issuer is down at start")

	s.publish(t, authn.NewJWK(authntest.KeyID, &i.Key.PublicKey))
	require.Eventually(t, func() bool { return v.Ready() == nil }, time.Minute, 5*time.Millisecond)
	token := i.Token(user, authn.Admin)
	_, err := v.Verify(t.Context(), token)
	require.NoError(t, err)

	for _, answer := range []*string{nil, new(`{"keys":[]}`), new(`garbage`)} {
		s.answer.Store(answer)
		seen := s.fetches.Load()
		require.Eventually(t, func() bool { return s.fetches.Load() > seen+1 }, time.Minute, 5*time.Millisecond)
		_, err = v.Verify(t.Context(), token)
		require.NoError(t, err, "the last good set stays")
	}

	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	s.publish(t, authn.NewJWK("next", &other.PublicKey))
	require.Eventually(t, func() bool {
		_, err := v.Verify(t.Context(), token)
		return errs.KindOf(err) == errs.Unauthenticated
	}, 10*time.Second, 5*time.Millisecond, "a removed key's tokens end at the next refresh")
}

func TestUnknownKidsCostOneFetchPerCooldown(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	s := newIssuerServer(t, nil)
	s.publish(t, authn.NewJWK(authntest.KeyID, &i.Key.PublicKey))
	v := s.verifier(authn.Config{Cooldown: time.Hour})

	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 125 {
				token, err := authn.Mint(i.Key, uuid.NewString(), i.Claims(user, authn.Admin))
				if err != nil {
					panic(err)
				}
				if _, err := v.Verify(context.Background(), token); errs.KindOf(err) != errs.Unauthenticated {
					panic(fmt.Sprint("want unauthenticated, got ", err))
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, s.fetches.Load())
}

func TestUnknownKidIsFoundByOneFetchThatAllWaitFor(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	hold := make(chan struct{})
	s := newIssuerServer(t, hold)
	s.publish(t, authn.NewJWK(authntest.KeyID, &i.Key.PublicKey))
	v := s.verifier(authn.Config{Cooldown: time.Hour})
	token := i.Token(user, authn.Customer)

	errors16 := make(chan error, 16)
	gone, leave := context.WithCancel(t.Context())
	for n := range 16 {
		ctx := t.Context()
		if n == 0 {
			ctx = gone // one client leaves; whoever it is, the others get their answer
		}
		go func() { _, err := v.Verify(ctx, token); errors16 <- err }()
	}
	require.Eventually(t, func() bool { return s.fetches.Load() == 1 }, time.Minute, time.Millisecond)
	leave()
	close(hold)
	failed := 0
	for range 16 {
		if err := <-errors16; err != nil {
			failed++
		}
	}
	require.LessOrEqual(t, failed, 1)
	require.EqualValues(t, 1, s.fetches.Load())
}

func TestASlowOldAnswerDoesNotUndoANewerOne(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	old, err := json.Marshal(authn.JWKS{Keys: []authn.JWK{authn.NewJWK("old", &other.PublicKey)}})
	require.NoError(t, err)
	now, err := json.Marshal(authn.JWKS{Keys: []authn.JWK{authn.NewJWK(authntest.KeyID, &i.Key.PublicKey)}})
	require.NoError(t, err)
	asked, release := make(chan struct{}), make(chan struct{})
	var fetches atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if fetches.Add(1) > 1 {
			_, _ = w.Write(now)
			return
		}
		close(asked)
		<-release
		_, _ = w.Write(old)
	}))
	t.Cleanup(srv.Close)
	reg := prometheus.NewRegistry()
	v := authn.NewVerifier(authn.Config{JWKSURL: srv.URL, Issuer: authntest.TestIssuer, Audience: authntest.TestAudience, RefreshInterval: time.Hour, Cooldown: time.Hour},
		authn.NewKeySet(), slog.New(slog.DiscardHandler), reg)
	runVerifier(t, v)
	<-asked
	verified := make(chan error, 1)
	go func() { _, err := v.Verify(context.Background(), i.Token(user, authn.Customer)); verified <- err }()
	// The token's fetch waits for the slow one; if it did not, it would be done now.
	select {
	case err := <-verified:
		verified <- err
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	require.NoError(t, <-verified)
	require.Eventually(t, func() bool { return counter(t, reg, "tiffin_authn_jwks_fetches_total", "ok") == 2 }, time.Minute, time.Millisecond)
	_, err = v.Verify(t.Context(), i.Token(user, authn.Customer))
	require.NoError(t, err, "the old answer came last and counts")
}

func TestCooldownEnds(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	s := newIssuerServer(t, nil)
	v := s.verifier(authn.Config{Cooldown: time.Millisecond})
	token := i.Token(user, authn.Customer)
	_, err := v.Verify(t.Context(), token)
	require.Equal(t, errs.Unavailable, errs.KindOf(err))
	s.publish(t, authn.NewJWK(authntest.KeyID, &i.Key.PublicKey))
	require.Eventually(t, func() bool {
		_, err := v.Verify(t.Context(), token)
		return err == nil
	}, 10*time.Second, 2*time.Millisecond)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	target := newIssuerServer(t, nil)
	target.publish(t, authn.NewJWK(authntest.KeyID, &i.Key.PublicKey))
	redirect := httptest.NewServer(http.RedirectHandler(target.URL, http.StatusFound))
	t.Cleanup(redirect.Close)
	v := authn.NewVerifier(authn.Config{JWKSURL: redirect.URL, Issuer: authntest.TestIssuer, Audience: authntest.TestAudience},
		authn.NewKeySet(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	_, err := v.Verify(t.Context(), i.Token(user, authn.Customer))
	require.Equal(t, errs.Unavailable, errs.KindOf(err))
	require.Zero(t, target.fetches.Load())
	require.False(t, errors.Is(err, context.Canceled))
}
