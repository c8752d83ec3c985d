package authn

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

const (
	alg = "RS256"
	typ = "at+jwt" // RFC 9068
	// Leeway is how far a token's iat and nbf may lie in the future, for clocks
	// that differ. A token's end has none: a client that finds its token refused
	// a moment early refreshes it.
	Leeway = 5 * time.Second
	// maxToken bounds a token before anything of it is parsed.
	maxToken = 8 << 10
	// maxTime is the end of year 9999: later times overflow time.Time's methods.
	maxTime = 253402300799
)

// Claims is what an access token says. It implements jwt.Claims.
type Claims struct {
	Issuer    string           `json:"iss"`
	Audience  jwt.ClaimStrings `json:"aud"`
	Subject   uuid.UUID        `json:"sub"` // the user
	Role      Role             `json:"role"`
	SessionID uuid.UUID        `json:"sid"`
	ID        string           `json:"jti"`
	IssuedAt  int64            `json:"iat"` // whole seconds, as the two below
	NotBefore int64            `json:"nbf,omitzero"`
	Expires   int64            `json:"exp"`
}

// Mint signs claims with key, as the access token that Verify accepts.
func Mint(key *rsa.PrivateKey, kid string, c Claims) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, &c)
	t.Header = map[string]any{"alg": alg, "typ": typ, "kid": kid}
	s, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}

// UnmarshalJSON reads claims strictly: golang-jwt leaves it to encoding/json,
// which matches names in any case and lets the last of two win.
func (c *Claims) UnmarshalJSON(b []byte) error {
	type plain Claims
	var raw struct {
		plain
		// As text first: only the canonical form of an id is accepted.
		Subject   string `json:"sub"`
		SessionID string `json:"sid"`
		IssuedAt  *int64 `json:"iat"`
		NotBefore *int64 `json:"nbf"`
		Expires   *int64 `json:"exp"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	*c = Claims(raw.plain)
	var err error
	if c.Subject, err = canonicalID(raw.Subject); err != nil {
		return fmt.Errorf("sub: %w", err)
	}
	if c.SessionID, err = canonicalID(raw.SessionID); err != nil {
		return fmt.Errorf("sid: %w", err)
	}
	if c.ID == "" || (c.Role != Customer && c.Role != Admin) {
		return errors.New("jti or role is missing or unknown")
	}
	for _, t := range []struct {
		name string
		from *int64
		to   *int64
	}{{"iat", raw.IssuedAt, &c.IssuedAt}, {"exp", raw.Expires, &c.Expires}, {"nbf", raw.NotBefore, &c.NotBefore}} {
		switch {
		case t.from == nil && t.name == "nbf":
		case t.from == nil || *t.from <= 0 || *t.from > maxTime:
			return fmt.Errorf("%s is missing or out of range", t.name)
		default:
			*t.to = *t.from
		}
	}
	return nil
}

func canonicalID(s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil || id.String() != s || id == uuid.Nil {
		return uuid.Nil, errors.New("not a canonical UUID")
	}
	return id, nil
}

// GetExpirationTime implements jwt.Claims.
func (c *Claims) GetExpirationTime() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(time.Unix(c.Expires, 0)), nil
}

// GetIssuedAt implements jwt.Claims.
func (c *Claims) GetIssuedAt() (*jwt.NumericDate, error) {
	return jwt.NewNumericDate(time.Unix(c.IssuedAt, 0)), nil
}

// GetNotBefore implements jwt.Claims.
func (c *Claims) GetNotBefore() (*jwt.NumericDate, error) {
	if c.NotBefore == 0 {
		return nil, nil //nolint:nilnil // jwt's way of saying that the claim is absent
	}
	return jwt.NewNumericDate(time.Unix(c.NotBefore, 0)), nil
}

// GetIssuer implements jwt.Claims.
func (c *Claims) GetIssuer() (string, error) { return c.Issuer, nil }

// GetSubject implements jwt.Claims.
func (c *Claims) GetSubject() (string, error) { return c.Subject.String(), nil }

// GetAudience implements jwt.Claims.
func (c *Claims) GetAudience() (jwt.ClaimStrings, error) { return c.Audience, nil }

// readHeader returns the kid of a token whose header is exactly what our
// issuer writes. Every other name is refused, not ignored: crit and b64 change
// what is signed, and jwk, jku and x5* are the sender's own proposal of a key.
func readHeader(token string) (kid string, err error) {
	segment, _, ok := strings.Cut(token, ".")
	if !ok {
		return "", errors.New("not a JWS")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(segment)
	if err != nil {
		return "", fmt.Errorf("header: %w", err)
	}
	var h struct {
		Alg string `json:"alg"`
		Typ string `json:"typ"`
		Kid string `json:"kid"`
	}
	if err := json.Unmarshal(b, &h, json.RejectUnknownMembers(true)); err != nil {
		return "", fmt.Errorf("header: %w", err)
	}
	if h.Alg != alg || h.Kid == "" {
		return "", errors.New("header: wrong alg or no kid")
	}
	// RFC 7515 §4.1.9: media types compare in any case, with or without the prefix.
	if t := strings.ToLower(h.Typ); t != typ && t != "application/"+typ {
		return "", errors.New("header: wrong typ")
	}
	return h.Kid, nil
}
