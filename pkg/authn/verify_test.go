package authn_test

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
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

// forge signs any two texts with the issuer's real key.
func forge(t *testing.T, i *authntest.Issuer, header, claims string) string {
	t.Helper()
	signed := b64(header) + "." + b64(claims)
	return signed + "." + sign(t, i.Key, crypto.SHA256, signed)
}

func sign(t *testing.T, key *rsa.PrivateKey, hash crypto.Hash, signed string) string {
	t.Helper()
	h := hash.New()
	h.Write([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, hash, h.Sum(nil))
	require.NoError(t, err)
	return base64.RawURLEncoding.EncodeToString(sig)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

const goodHeader = `{"alg":"RS256","typ":"at+jwt","kid":"test-key"}`

func goodClaims(t *testing.T, i *authntest.Issuer, change map[string]any) string {
	t.Helper()
	b, err := json.Marshal(i.Claims(user, authn.Customer))
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	for _, name := range []string{"iat", "exp"} {
		m[name] = int64(m[name].(float64))
	}
	for name, v := range change {
		if v == nil {
			delete(m, name)
		} else {
			m[name] = v
		}
	}
	b, err = json.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	v := i.Verifier()
	now := time.Now().Unix()
	for name, token := range map[string]string{
		"minted":              i.Token(user, authn.Customer),
		"forged to be right":  forge(t, i, goodHeader, goodClaims(t, i, nil)),
		"long media type":     forge(t, i, `{"alg":"RS256","typ":"application/AT+JWT","kid":"test-key"}`, goodClaims(t, i, nil)),
		"single audience":     forge(t, i, goodHeader, goodClaims(t, i, map[string]any{"aud": authntest.TestAudience})),
		"several audiences":   forge(t, i, goodHeader, goodClaims(t, i, map[string]any{"aud": []string{"x", authntest.TestAudience}})),
		"a claim of tomorrow": forge(t, i, goodHeader, goodClaims(t, i, map[string]any{"tier": "gold"})),
		"clock a bit ahead":   forge(t, i, goodHeader, goodClaims(t, i, map[string]any{"iat": now + 3, "nbf": now + 3})),
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
	good := i.Token(user, authn.Customer)
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")
	raw := goodClaims(t, i, nil)
	claim := func(name string, value any) string {
		return forge(t, i, goodHeader, goodClaims(t, i, map[string]any{name: value}))
	}
	header := func(h string) string { return forge(t, i, h, raw) }
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	now := time.Now().Unix()

	cases := map[string]string{
		"empty": "", "dots": "..", "one part": head, "two parts": head + "." + body, "four parts": good + ".x",
		"no signature": head + "." + body + ".", "truncated signature": good[:len(good)-8],
		"another key":  b64(goodHeader) + "." + b64(raw) + "." + sign(t, other, crypto.SHA256, b64(goodHeader)+"."+b64(raw)),
		"over 8 KiB":   claim("pad", strings.Repeat("x", 8<<10)),
		"header array": header(`[]`), "header null": header(`null`), "header no json": header(`{`),
		"claims no json": forge(t, i, goodHeader, `{`), "claims null": forge(t, i, goodHeader, `null`),
		"trailing data in claims": forge(t, i, goodHeader, raw+`{}`),
		"trailing data in header": header(goodHeader + ` {}`),

		"alg none":      b64(`{"alg":"none","typ":"at+jwt","kid":"test-key"}`) + "." + body + ".",
		"alg None":      header(`{"alg":"None","typ":"at+jwt","kid":"test-key"}`),
		"alg rs256":     header(`{"alg":"rs256","typ":"at+jwt","kid":"test-key"}`),
		"alg missing":   header(`{"typ":"at+jwt","kid":"test-key"}`),
		"alg a number":  header(`{"alg":256,"typ":"at+jwt","kid":"test-key"}`),
		"typ missing":   header(`{"alg":"RS256","kid":"test-key"}`),
		"typ JWT":       header(`{"alg":"RS256","typ":"JWT","kid":"test-key"}`),
		"kid missing":   header(`{"alg":"RS256","typ":"at+jwt"}`),
		"kid unknown":   header(`{"alg":"RS256","typ":"at+jwt","kid":"other"}`),
		"kid path":      header(`{"alg":"RS256","typ":"at+jwt","kid":"../../dev/null"}`),
		"kid a number":  header(`{"alg":"RS256","typ":"at+jwt","kid":1}`),
		"alg twice":     header(`{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"test-key"}`),
		"kid twice":     header(`{"alg":"RS256","typ":"at+jwt","kid":"x","kid":"test-key"}`),
		"names in caps": header(`{"ALG":"RS256","typ":"at+jwt","kid":"test-key"}`),
		"alg two cases": header(`{"alg":"RS256","Alg":"none","typ":"at+jwt","kid":"test-key"}`),

		"sub twice":          forge(t, i, goodHeader, strings.Replace(raw, `{`, `{"sub":"`+uuid.NewString()+`",`, 1)),
		"unknown name twice": forge(t, i, goodHeader, strings.Replace(raw, `{`, `{"x":1,"x":2,`, 1)),
		"invalid utf-8":      forge(t, i, goodHeader, strings.Replace(raw, `{`, "{\"x\":\"\xff\",", 1)),

		"exp missing": claim("exp", nil), "exp past": claim("exp", now-1), "exp now": claim("exp", now), "exp text": claim("exp", "9999999999"),
		"exp huge": claim("exp", int64(1)<<62), "exp fraction": claim("exp", 1e9+0.5), "exp negative": claim("exp", -1),
		"iat missing": claim("iat", nil), "iat future": claim("iat", now+60), "nbf future": claim("nbf", now+60), "nbf text": claim("nbf", "x"),
		"iss missing": claim("iss", nil), "iss other": claim("iss", "https://evil.test"), "iss prefix": claim("iss", authntest.TestIssuer+"/"),
		"aud missing": claim("aud", nil), "aud other": claim("aud", "x"), "aud empty": claim("aud", []string{}), "aud object": claim("aud", map[string]any{}),
		"sub missing": claim("sub", nil), "sub no uuid": claim("sub", "admin"), "sub nil uuid": claim("sub", uuid.Nil.String()), "sub braces": claim("sub", "{"+user.String()+"}"),
		"sid missing": claim("sid", nil), "sid no uuid": claim("sid", "1"),
		"jti missing": claim("jti", nil), "jti empty": claim("jti", ""),
		"role missing": claim("role", nil), "role unknown": claim("role", "Root"), "role case": claim("role", "admin"), "role list": claim("role", []string{"Admin"}),
		"SUB only": forge(t, i, goodHeader, strings.Replace(raw, `"sub"`, `"SUB"`, 1)),
		"EXP only": forge(t, i, goodHeader, strings.Replace(raw, `"exp"`, `"EXP"`, 1)),

		"padding":           good + "==",
		"header padded":     head + "==." + rest,
		"standard alphabet": strings.NewReplacer("-", "+", "_", "/").Replace(head+"."+body) + "." + strings.NewReplacer("-", "+", "_", "/").Replace(sig) + "+",
		"newline":           head + "." + body + "\n." + sig,
		"newline inside":    head[:4] + "\r\n" + head[4:] + "." + rest,
		"newline at end":    good + "\n",
		"space":             good + " ",
		"loose last bits":   loosen(good),
		"loose header bits": loosen(b64(goodHeader+" ")) + "." + rest,
	}
	for _, name := range []string{"crit", "b64", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "zip"} {
		for _, value := range []string{`["exp"]`, `false`, `"https://evil.test/keys"`, `{}`, `null`} {
			cases[name+" "+value] = header(fmt.Sprintf(`{"alg":"RS256","typ":"at+jwt","kid":"test-key",%q:%s}`, name, value))
		}
	}
	maps.Copy(cases, confused(t, i, raw))

	for name, token := range cases {
		_, err := v.Verify(t.Context(), token)
		require.Error(t, err, name)
		require.Equal(t, errs.Unauthenticated, errs.KindOf(err), name)
	}
	// One flipped bit anywhere in the signature.
	s, err := base64.RawURLEncoding.DecodeString(sig)
	require.NoError(t, err)
	for at := range s {
		flipped := append([]byte(nil), s...)
		flipped[at] ^= 1 << (at % 8)
		_, err := v.Verify(t.Context(), head+"."+body+"."+base64.RawURLEncoding.EncodeToString(flipped))
		require.Equal(t, errs.Unauthenticated, errs.KindOf(err), "byte %d", at)
	}
}

// loosen sets bits of the last character that decode to nothing: the text
// differs and a lax decoder sees the same bytes.
func loosen(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	at := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + alphabet[at|1:at|1+1]
}

// confused returns tokens signed for another algorithm than RS256: the public
// key as an HMAC secret, and other RSA schemes with the right key.
func confused(t *testing.T, i *authntest.Issuer, claims string) map[string]string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&i.Key.PublicKey)
	require.NoError(t, err)
	secrets := map[string][]byte{
		"der": der, "modulus": i.Key.N.Bytes(), "empty": {},
		"pem":   pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"pkcs1": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&i.Key.PublicKey)}),
	}
	out := map[string]string{}
	for name, secret := range secrets {
		for _, a := range []string{"HS256", "RS256"} {
			signed := b64(fmt.Sprintf(`{"alg":%q,"typ":"at+jwt","kid":"test-key"}`, a)) + "." + b64(claims)
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(signed))
			out["hmac "+a+" "+name] = signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
		}
	}
	for a, hash := range map[string]crypto.Hash{"RS384": crypto.SHA384, "RS512": crypto.SHA512} {
		signed := b64(fmt.Sprintf(`{"alg":%q,"typ":"at+jwt","kid":"test-key"}`, a)) + "." + b64(claims)
		out[a] = signed + "." + sign(t, i.Key, hash, signed)
	}
	signed := b64(`{"alg":"PS256","typ":"at+jwt","kid":"test-key"}`) + "." + b64(claims)
	sum := sha256.Sum256([]byte(signed))
	pss, err := rsa.SignPSS(rand.Reader, i.Key, crypto.SHA256, sum[:], nil)
	require.NoError(t, err)
	out["PS256"] = signed + "." + base64.RawURLEncoding.EncodeToString(pss)
	return out
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
	require.InDelta(t, 1, counter(t, reg, "verified"), 0)
	require.InDelta(t, 2, counter(t, reg, "remembered"), 0)

	// The same key fetched again keeps the entry.
	keys.Set(map[string]*rsa.PublicKey{authntest.KeyID: {N: i.Key.N, E: i.Key.E}})
	_, err = v.Verify(t.Context(), token)
	require.NoError(t, err)
	require.InDelta(t, 3, counter(t, reg, "remembered"), 0)

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

func counter(t *testing.T, reg *prometheus.Registry, result string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != "tiffin_authn_tokens_total" {
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
