package authn

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-json-experiment/json"
)

const (
	minKeyBits = 2048 // RFC 7518 §3.3
	maxKeyBits = 8192 // verifying is cubic in the size
	maxJWKS    = 256 << 10
	maxKeys    = 64
)

// KeySet holds the public keys that tokens may be signed with. It is read
// without locks and replaced as a whole.
type KeySet struct {
	keys atomic.Pointer[map[string]*rsa.PublicKey]
	mu   sync.Mutex // one Set at a time
}

// NewKeySet returns an empty set.
func NewKeySet() *KeySet { return &KeySet{} }

// Set replaces all keys. A key that stays keeps its address, which is how the
// cache of verified tokens knows that it is still there.
func (k *KeySet) Set(keys map[string]*rsa.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := make(map[string]*rsa.PublicKey, len(keys))
	for kid, key := range keys {
		if old := k.get(kid); old != nil && old.Equal(key) {
			key = old
		}
		next[kid] = key
	}
	k.keys.Store(&next)
}

// Len returns how many keys there are.
func (k *KeySet) Len() int {
	if m := k.keys.Load(); m != nil {
		return len(*m)
	}
	return 0
}

func (k *KeySet) get(kid string) *rsa.PublicKey {
	if m := k.keys.Load(); m != nil {
		return (*m)[kid]
	}
	return nil
}

// JWK is a public RSA key as JSON (RFC 7517).
type JWK struct {
	Kty    string   `json:"kty"`
	Use    string   `json:"use,omitzero"`
	KeyOps []string `json:"key_ops,omitzero"`
	Alg    string   `json:"alg,omitzero"`
	Kid    string   `json:"kid"`
	N      string   `json:"n"`
	E      string   `json:"e"`
}

// JWKS is a set of keys as JSON.
type JWKS struct {
	Keys []JWK `json:"keys"`
}

// NewJWK describes pub as a key for verifying RS256 signatures.
func NewJWK(kid string, pub *rsa.PublicKey) JWK {
	return JWK{
		Kty: "RSA", Use: "sig", Alg: alg, Kid: kid,
		N: base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes()),
	}
}

// ParseJWKS returns the keys of a JWKS document that may verify our tokens.
// Keys for something else (another type, alg, use or key_ops, under 2048 bits,
// without a kid) are skipped; a set in which a kid stands twice is refused,
// because it does not say which of the two is meant.
func ParseJWKS(b []byte) (map[string]*rsa.PublicKey, error) {
	if len(b) > maxJWKS {
		return nil, fmt.Errorf("jwks is larger than %d bytes", maxJWKS)
	}
	// Each key on its own: one of another type may have members of other types.
	var doc struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("decode jwks: %w", err)
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("jwks holds more than %d keys", maxKeys)
	}
	keys := make(map[string]*rsa.PublicKey, len(doc.Keys))
	for _, raw := range doc.Keys {
		kid, _ := raw["kid"].(string)
		pub, err := publicKey(raw)
		if err != nil || kid == "" {
			continue
		}
		if _, twice := keys[kid]; twice {
			return nil, fmt.Errorf("jwks: kid %.32q stands twice", kid)
		}
		keys[kid] = pub
	}
	return keys, nil
}

func publicKey(raw map[string]any) (*rsa.PublicKey, error) {
	for name, want := range map[string]string{"kty": "RSA", "alg": alg, "use": "sig"} {
		if v, present := raw[name]; (present || name == "kty") && v != want {
			return nil, fmt.Errorf("%s is not %s", name, want)
		}
	}
	if ops, present := raw["key_ops"]; present {
		if list, ok := ops.([]any); !ok || !slices.Contains(list, any("verify")) {
			return nil, errors.New("key_ops lacks verify")
		}
	}
	n, err := bigInt(raw["n"])
	if err != nil {
		return nil, fmt.Errorf("n: %w", err)
	}
	e, err := bigInt(raw["e"])
	if err != nil {
		return nil, fmt.Errorf("e: %w", err)
	}
	if n.BitLen() < minKeyBits || n.BitLen() > maxKeyBits || n.Bit(0) == 0 {
		return nil, fmt.Errorf("a modulus of %d bits", n.BitLen())
	}
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
		return nil, errors.New("unusable exponent")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func bigInt(v any) (*big.Int, error) {
	s, ok := v.(string)
	if !ok || s == "" {
		return nil, errors.New("missing")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, err
	}
	return new(big.Int).SetBytes(b), nil
}
