package authn_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var user = uuid.MustParse("01900000-0000-7000-8000-000000000001")

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	v := i.Verifier()
	now := time.Now().Unix()
	claims := func(change map[string]any) string { return i.ClaimsJSON(user, authn.Customer, change) }
	for name, token := range map[string]string{
		"minted":                          i.Token(user, authn.Customer),
		"forged to be right":              i.Forge(authntest.GoodHeader, claims(nil)),
		"long media type":                 i.Forge(`{"alg":"RS256","typ":"application/AT+JWT","kid":"test-key"}`, claims(nil)),
		"single audience":                 i.Forge(authntest.GoodHeader, claims(map[string]any{"aud": authntest.TestAudience})),
		"several audiences":               i.Forge(authntest.GoodHeader, claims(map[string]any{"aud": []string{"x", authntest.TestAudience}})),
		"a claim of tomorrow":             i.Forge(authntest.GoodHeader, claims(map[string]any{"tier": "gold"})),
		"a role in other case is no role": i.Forge(authntest.GoodHeader, claims(map[string]any{"Role": "Admin", "ROLE": "Admin"})),
		"spaces in the header":            i.Forge(strings.ReplaceAll(authntest.GoodHeader, ",", " ,\n"), claims(nil)),
		"clock a bit ahead":               i.Forge(authntest.GoodHeader, claims(map[string]any{"iat": now + 3, "nbf": now + 3})),
	} {
		p, err := v.Verify(t.Context(), token)
		require.NoError(t, err, name)
		require.Equal(t, user, p.UserID, name)
		require.Equal(t, authn.Customer, p.Role, name)
		require.NotEqual(t, uuid.Nil, p.SessionID, name)
	}
}

func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	v := i.Verifier()
	_, err := v.Verify(t.Context(), "")
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
	for name, token := range i.Forged() {
		_, err := v.Verify(t.Context(), token)
		require.Error(t, err, name)
		require.Equal(t, errs.Unauthenticated, errs.KindOf(err), name)
	}
	// One flipped bit anywhere in the signature.
	good := i.Token(user, authn.Customer)
	signed, sig := good[:strings.LastIndexByte(good, '.')+1], good[strings.LastIndexByte(good, '.')+1:]
	s, err := base64.RawURLEncoding.DecodeString(sig)
	require.NoError(t, err)
	for at := range s {
		flipped := append([]byte(nil), s...)
		flipped[at] ^= 1 << (at % 8)
		_, err := v.Verify(t.Context(), signed+base64.RawURLEncoding.EncodeToString(flipped))
		require.Equal(t, errs.Unauthenticated, errs.KindOf(err), "byte %d", at)
	}
	_, err = v.Verify(t.Context(), good)
	require.NoError(t, err)
}

func TestTokensMayHold8KiB(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	v := i.Verifier()
	ofSize := func(size int) string {
		for spaces := range 4 { // base64 cannot have every length: both parts are stretched
			for pad := size * 3 / 4; pad > size/2; pad-- {
				claims := i.ClaimsJSON(user, authn.Customer, map[string]any{"pad": strings.Repeat("x", pad)})
				header := authntest.GoodHeader + strings.Repeat(" ", spaces)
				if 342+2+base64.RawURLEncoding.EncodedLen(len(header))+base64.RawURLEncoding.EncodedLen(len(claims)) == size {
					return i.Forge(header, claims)
				}
			}
		}
		require.Fail(t, "no such token")
		return ""
	}
	_, err := v.Verify(t.Context(), ofSize(8<<10))
	require.NoError(t, err)
	_, err = v.Verify(t.Context(), ofSize(8<<10+1))
	require.ErrorContains(t, err, "8 KiB")
}

func TestRememberedTokenEndsWithItsTimeAndItsKey(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	keys := authn.NewKeySet()
	now := time.Now()
	reg := prometheus.NewRegistry()
	v := authn.NewVerifier(authn.Config{
		Issuer: authntest.TestIssuer, Audience: authntest.TestAudience, Now: func() time.Time { return now },
	}, keys, slog.New(slog.DiscardHandler), reg)

	token := i.Token(user, authn.Customer)
	_, err := v.Verify(t.Context(), token)
	require.Equal(t, errs.Unavailable, errs.KindOf(err), "no keys yet")
	require.Error(t, v.Ready())

	set := map[string]*rsa.PublicKey{authntest.KeyID: &i.Key.PublicKey}
	keys.Set(set)
	require.NoError(t, v.Ready())
	for range 3 {
		_, err = v.Verify(t.Context(), token)
		require.NoError(t, err)
	}
	require.InDelta(t, 1, counter(t, reg, tokens, "verified"), 0)
	require.InDelta(t, 2, counter(t, reg, tokens, "remembered"), 0)

	// The same key fetched again keeps the entry.
	keys.Set(map[string]*rsa.PublicKey{authntest.KeyID: {N: i.Key.N, E: i.Key.E}})
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	require.InDelta(t, 3, counter(t, reg, tokens, "remembered"), 0)

	// Another key under the kid, then no key: refused at once.
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	keys.Set(map[string]*rsa.PublicKey{authntest.KeyID: &other.PublicKey})
	_, err = v.Verify(t.Context(), token)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))
	keys.Set(set)
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	keys.Set(map[string]*rsa.PublicKey{"x": &other.PublicKey})
	_, err = v.Verify(t.Context(), token)
	require.Equal(t, errs.Unauthenticated, errs.KindOf(err))

	keys.Set(set)
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	now = now.Add(15 * time.Minute)
	_, err = v.Verify(t.Context(), token)
	require.ErrorContains(t, err, "expired")
}

const tokens = "tiffin_authn_tokens_total"

func counter(t *testing.T, reg *prometheus.Registry, name, result string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func BenchmarkVerifyRemembered(b *testing.B) {
	i := authntest.New(b)
	v := i.Verifier()
	tokens := make([]string, 1000)
	for n := range tokens {
		tokens[n] = i.Token(uuid.New(), authn.Customer)
	}
	ctx := b.Context()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := v.Verify(ctx, tokens[n%len(tokens)]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
