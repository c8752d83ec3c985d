package authntest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha512" // for RS384 and RS512
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

// GoodHeader is the header of a token that the issuer would sign.
const GoodHeader = `{"alg":"RS256","typ":"at+jwt","kid":"` + KeyID + `"}`

// Raw is JSON that stands for a claim as it is.
type Raw = jsontext.Value

// Forge signs any two texts with the issuer's real key.
func (i *Issuer) Forge(header, claims string) string {
	i.t.Helper()
	signed := encode(header) + "." + encode(claims)
	return signed + "." + i.sign(i.Key, crypto.SHA256, signed)
}

func (i *Issuer) sign(key *rsa.PrivateKey, hash crypto.Hash, signed string) string {
	i.t.Helper()
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, hash, digest(hash, signed))
	require.NoError(i.t, err)
	return base64.RawURLEncoding.EncodeToString(sig)
}

func digest(hash crypto.Hash, signed string) []byte {
	h := hash.New()
	h.Write([]byte(signed))
	return h.Sum(nil)
}

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// ClaimsJSON returns the claims of a good token with some changed, or removed
// when they are nil.
func (i *Issuer) ClaimsJSON(user uuid.UUID, role authn.Role, change map[string]any) string {
	i.t.Helper()
	b, err := json.Marshal(i.Claims(user, role))
	require.NoError(i.t, err)
	var m map[string]jsontext.Value
	require.NoError(i.t, json.Unmarshal(b, &m))
	for name, v := range change {
		if v == nil {
			delete(m, name)
			continue
		}
		b, err := json.Marshal(v)
		require.NoError(i.t, err)
		m[name] = b
	}
	b, err = json.Marshal(m)
	require.NoError(i.t, err)
	return string(b)
}

// Forged returns tokens by what is wrong with them. Each is good in everything
// else, and signed with the right key where that is possible, so that only the
// check for that one thing stands between it and an Admin.
func (i *Issuer) Forged() map[string]string {
	i.t.Helper()
	all := map[string]string{}
	for _, some := range []map[string]string{i.badShapes(), i.badAlgorithms(), i.badHeaders(), i.badClaims()} {
		maps.Copy(all, some)
	}
	return all
}

func (i *Issuer) adminClaims(change map[string]any) string {
	return i.ClaimsJSON(uuid.Must(uuid.NewV7()), authn.Admin, change)
}

// badShapes are damaged signatures, and other spellings of the same bytes.
func (i *Issuer) badShapes() map[string]string {
	claims := i.adminClaims(nil)
	good := i.Forge(GoodHeader, claims)
	head, rest, _ := strings.Cut(good, ".")
	body, sig, _ := strings.Cut(rest, ".")
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(i.t, err)
	standard := strings.NewReplacer("-", "+", "_", "/")
	odd := i.Token(uuid.Must(uuid.NewV7()), authn.Admin)
	for standard.Replace(odd) == odd { // until it differs in the standard alphabet
		odd = i.Token(uuid.Must(uuid.NewV7()), authn.Admin)
	}
	bytes, err := base64.RawURLEncoding.DecodeString(sig)
	require.NoError(i.t, err)
	bytes[len(bytes)/2] ^= 1
	return map[string]string{
		"dots": "..", "one part": head, "two parts": head + "." + body, "four parts": good + ".x", "five parts": good + ".x.y",
		"no signature": head + "." + body + ".", "truncated signature": good[:len(good)-8], "a flipped bit": head + "." + body + "." + base64.RawURLEncoding.EncodeToString(bytes),
		"the signature twice": good + sig, "another token's signature": head + "." + body + "." + odd[strings.LastIndexByte(odd, '.')+1:],
		"another key": head + "." + body + "." + i.sign(other, crypto.SHA256, head+"."+body),
		"in JSON":     fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, body, head, sig),
		"over 8 KiB":  i.Forge(GoodHeader, i.adminClaims(map[string]any{"pad": strings.Repeat("x", 8<<10)})),

		"padding": good + "==", "header padded": head + "==." + rest, "body padded": head + "." + body + "=." + sig,
		"standard alphabet": standard.Replace(odd), "percent-encoded": strings.Replace(good, ".", "%2e", 1),
		"newline": head + "." + body + "\n." + sig, "newline inside": head[:4] + "\r\n" + head[4:] + "." + rest, "newline at end": good + "\n",
		"space at the end": good + " ", "space inside": head + " ." + rest, "tab inside": head + ".\t" + rest,
		"loose last bits": loosen(good), "loose header bits": loosen(encode(GoodHeader+" ")) + "." + rest,
	}
}

// loosen sets bits of the last character that decode to nothing: the text
// differs and a lax decoder sees the same bytes.
func loosen(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	at := strings.IndexByte(alphabet, s[len(s)-1]) | 1
	return s[:len(s)-1] + alphabet[at:at+1]
}

// badAlgorithms are tokens signed for another algorithm than RS256: none, the
// public key as an HMAC secret, other schemes with the right and with own keys.
func (i *Issuer) badAlgorithms() map[string]string {
	claims := i.adminClaims(nil)
	signed := func(alg string) string {
		return encode(fmt.Sprintf(`{"alg":%q,"typ":"at+jwt","kid":%q}`, alg, KeyID)) + "." + encode(claims)
	}
	sealed := func(alg string, sig []byte) string {
		return signed(alg) + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	out := map[string]string{}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		out["unsigned "+alg] = signed(alg) + "."
	}
	for _, alg := range []string{"none", "None", "rs256", "RS256 ", "RSA", "", "HS256", "PS256", "ES256"} {
		out["right signature, alg "+alg] = signed(alg) + "." + i.sign(i.Key, crypto.SHA256, signed(alg))
	}
	der, err := x509.MarshalPKIXPublicKey(&i.Key.PublicKey)
	require.NoError(i.t, err)
	jwk, err := json.Marshal(authn.NewJWK(KeyID, &i.Key.PublicKey))
	require.NoError(i.t, err)
	for name, secret := range map[string][]byte{
		"der": der, "modulus": i.Key.N.Bytes(), "empty": {}, "jwk": jwk, "kid": []byte(KeyID),
		"pem":   pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"pkcs1": pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&i.Key.PublicKey)}),
	} {
		for alg, hash := range map[string]crypto.Hash{"HS256": crypto.SHA256, "HS384": crypto.SHA384, "HS512": crypto.SHA512, "RS256": crypto.SHA256} {
			mac := hmac.New(hash.New, secret)
			mac.Write([]byte(signed(alg)))
			out["hmac "+alg+" "+name] = sealed(alg, mac.Sum(nil))
		}
	}
	for alg, hash := range map[string]crypto.Hash{"RS384": crypto.SHA384, "RS512": crypto.SHA512} {
		out[alg] = signed(alg) + "." + i.sign(i.Key, hash, signed(alg))
		pssAlg := "PS" + alg[2:]
		pss, err := rsa.SignPSS(rand.Reader, i.Key, hash, digest(hash, signed(pssAlg)), nil)
		require.NoError(i.t, err)
		out[pssAlg] = sealed(pssAlg, pss)
	}
	for _, alg := range []string{"PS256", "RS256"} {
		pss, err := rsa.SignPSS(rand.Reader, i.Key, crypto.SHA256, digest(crypto.SHA256, signed(alg)), nil)
		require.NoError(i.t, err)
		out["pss as "+alg] = sealed(alg, pss)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(i.t, err)
	r, s, err := ecdsa.Sign(rand.Reader, ec, digest(crypto.SHA256, signed("ES256")))
	require.NoError(i.t, err)
	out["ES256"] = sealed("ES256", append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	out["ES256 of zeros"] = sealed("ES256", make([]byte, 64))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(i.t, err)
	out["EdDSA"] = sealed("EdDSA", ed25519.Sign(ed, []byte(signed("EdDSA"))))
	return out
}

// badHeaders are rightly signed tokens whose header asks for something else.
func (i *Issuer) badHeaders() map[string]string {
	claims := i.adminClaims(nil)
	out := map[string]string{}
	for name, header := range map[string]string{
		"array": `[]`, "null": `null`, "no json": `{`, "empty": ``, "trailing data": GoodHeader + ` {}`, "text": `"RS256"`,
		"alg missing": `{"typ":"at+jwt","kid":"test-key"}`, "alg a number": `{"alg":256,"typ":"at+jwt","kid":"test-key"}`, "alg a list": `{"alg":["RS256"],"typ":"at+jwt","kid":"test-key"}`,
		"typ missing": `{"alg":"RS256","kid":"test-key"}`, "typ JWT": `{"alg":"RS256","typ":"JWT","kid":"test-key"}`, "typ of a refresh token": `{"alg":"RS256","typ":"rt+jwt","kid":"test-key"}`,
		"typ null":    `{"alg":"RS256","typ":null,"kid":"test-key"}`,
		"cty":         `{"alg":"RS256","typ":"at+jwt","cty":"JWT","kid":"test-key"}`,
		"kid missing": `{"alg":"RS256","typ":"at+jwt"}`, "kid empty": `{"alg":"RS256","typ":"at+jwt","kid":""}`, "kid null": `{"alg":"RS256","typ":"at+jwt","kid":null}`,
		"kid a number": `{"alg":"RS256","typ":"at+jwt","kid":1}`, "kid a list": `{"alg":"RS256","typ":"at+jwt","kid":["test-key"]}`, "kid an object": `{"alg":"RS256","typ":"at+jwt","kid":{"test-key":1}}`,
		"kid unknown": `{"alg":"RS256","typ":"at+jwt","kid":"other"}`, "kid in caps": `{"alg":"RS256","typ":"at+jwt","kid":"TEST-KEY"}`, "kid with a space": `{"alg":"RS256","typ":"at+jwt","kid":"test-key "}`,
		"kid with NUL": `{"alg":"RS256","typ":"at+jwt","kid":"test-key\u0000"}`, "kid path": `{"alg":"RS256","typ":"at+jwt","kid":"../../dev/null"}`,
		"kid SQL": `{"alg":"RS256","typ":"at+jwt","kid":"x' or '1'='1"}`, "kid command": `{"alg":"RS256","typ":"at+jwt","kid":"|/bin/true"}`,
		"kid URL": `{"alg":"RS256","typ":"at+jwt","kid":"http://127.0.0.1:1/keys"}`, "kid huge": `{"alg":"RS256","typ":"at+jwt","kid":"` + strings.Repeat("k", 4096) + `"}`,
		"alg twice": `{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"test-key"}`, "kid twice": `{"alg":"RS256","typ":"at+jwt","kid":"x","kid":"test-key"}`,
		"typ twice": `{"alg":"RS256","typ":"JWT","typ":"at+jwt","kid":"test-key"}`, "alg twice, one escaped": `{"\u0061lg":"none","alg":"RS256","typ":"at+jwt","kid":"test-key"}`,
		"names in caps": `{"ALG":"RS256","typ":"at+jwt","kid":"test-key"}`, "alg in two cases": `{"alg":"RS256","Alg":"none","typ":"at+jwt","kid":"test-key"}`,
		"invalid UTF-8": "{\"alg\":\"RS256\",\"typ\":\"at+jwt\",\"kid\":\"test-key\",\"x\":\"\xff\"}", "byte order mark": "\ufeff" + GoodHeader,
	} {
		out["header: "+name] = i.Forge(header, claims)
	}
	own, err := json.Marshal(authn.NewJWK(KeyID, &i.Key.PublicKey))
	require.NoError(i.t, err)
	for _, name := range []string{"crit", "b64", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc", "alg2"} {
		for _, value := range []string{`["exp"]`, `["b64"]`, `false`, `true`, `"https://evil.test/keys"`, `{}`, `null`, string(own)} {
			out[fmt.Sprintf("header: %s %.12s", name, value)] = i.Forge(fmt.Sprintf(`{"alg":"RS256","typ":"at+jwt","kid":%q,%q:%s}`, KeyID, name, value), claims)
		}
	}
	// The sender's own key, offered in the header.
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(i.t, err)
	offer, err := json.Marshal(authn.NewJWK("evil", &other.PublicKey))
	require.NoError(i.t, err)
	for _, kid := range []string{"evil", KeyID} {
		signed := encode(fmt.Sprintf(`{"alg":"RS256","typ":"at+jwt","kid":%q,"jwk":%s}`, kid, offer)) + "." + encode(claims)
		out["header: own key as "+kid] = signed + "." + i.sign(other, crypto.SHA256, signed)
	}
	return out
}

// badClaims are rightly signed tokens of a right header.
func (i *Issuer) badClaims() map[string]string {
	good := i.adminClaims(nil)
	now := i.Claims(uuid.Nil, "").IssuedAt
	out := map[string]string{}
	text := func(name, claims string) { out["claims: "+name] = i.Forge(GoodHeader, claims) }
	front := func(s string) string { return strings.Replace(good, `{`, `{`+s+`,`, 1) }
	text("no json", `{`)
	text("null", `null`)
	text("array", `[`+good+`]`)
	text("trailing data", good+`{}`)
	text("unknown name twice", front(`"x":1,"x":2`))
	text("nested name twice", front(`"x":{"y":1,"y":2}`))
	text("invalid UTF-8", front("\"x\":\"\xff\""))
	text("lone surrogate", front(`"x":"\ud800"`))
	for _, name := range []string{"iss", "aud", "sub", "role", "sid", "jti", "iat", "exp"} {
		text(name+" in caps only", strings.Replace(good, `"`+name+`"`, `"`+strings.ToUpper(name)+`"`, 1))
		text(name+" twice", front(`"`+name+`":null`))
		for value, v := range map[string]any{
			"missing": nil, "null": Raw(`null`), "a list": Raw(`[[1]]`), "an object": Raw(`{}`), "true": true, "empty": "", "other": "x", "with NUL": "x\x00",
		} {
			if name == "jti" && (value == "other" || value == "with NUL") {
				continue // any text is a jti
			}
			text(name+" "+value, i.adminClaims(map[string]any{name: v}))
		}
	}
	for _, name := range []string{"exp", "iat", "nbf"} {
		for value, v := range map[string]any{
			"text": fmt.Sprint(now + 60), "fraction": Raw(fmt.Sprint(now) + ".5"), "float": Raw(fmt.Sprint(now) + ".0"), "exponent": Raw(`1e9`), "zero": 0, "negative": -1,
			"huge": int64(1) << 62, "beyond int64": Raw(`99999999999999999999`), "after year 9999": int64(253402300800), "true ": true, "a date": "2030-01-01T00:00:00Z",
		} {
			text(name+" "+value, i.adminClaims(map[string]any{name: v}))
		}
	}
	for name, change := range map[string]map[string]any{
		"exp past": {"exp": now - 1}, "exp now": {"exp": now}, "iat future": {"iat": now + 60}, "nbf future": {"nbf": now + 60},
		"iss with a slash": {"iss": TestIssuer + "/"}, "iss in caps": {"iss": strings.ToUpper(TestIssuer)}, "iss a list": {"iss": []string{TestIssuer}},
		"aud in caps": {"aud": strings.ToUpper(TestAudience)}, "aud none": {"aud": []string{}}, "aud others": {"aud": []string{"x", TestAudience + "x"}}, "aud with a number": {"aud": []any{TestAudience, 1}},
		"sub nil": {"sub": uuid.Nil.String()}, "sub in braces": {"sub": "{" + uuid.NewString() + "}"}, "sub urn": {"sub": "urn:uuid:" + uuid.NewString()}, "sub in caps": {"sub": "01900000-0000-7000-8000-00000000000A"},
		"sub SQL": {"sub": "' or 1=1 --"}, "sub a list": {"sub": []string{uuid.NewString()}}, "sid nil": {"sid": uuid.Nil.String()},
		"role in lower case": {"role": "admin"}, "role list": {"role": []string{"Admin"}}, "role with a space": {"role": "Admin "}, "role number": {"role": 1}, "jti a number": {"jti": 1},
	} {
		text(name, i.adminClaims(change))
	}
	return out
}
