package auth

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// sealer encrypts private keys at rest with AES-256-GCM, bound to their kid so
// that rows cannot be swapped. Nil when there is no secret.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret string) *sealer {
	if secret == "" {
		return nil
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "tiffin signing keys", 32)
	if err != nil {
		panic(err) // only for lengths that SHA-256 cannot give
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // only for keys of another length than 16, 24 or 32
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // only for other block sizes than AES has
	}
	return &sealer{aead}
}

func (s *sealer) close(kid string, plain []byte) ([]byte, error) {
	nonce := make([]byte, s.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal signing key: %w", err)
	}
	return s.aead.Seal(nonce, nonce, plain, []byte(kid)), nil
}

// ErrSealed says that the database's keys need another secret than was set.
var ErrSealed = errors.New("signing keys in the database are sealed with another AUTH_KEYS_SECRET: " +
	"set the one they were made with, or empty the table signing_keys (all access tokens end, sessions stay)")

func (s *sealer) open(kid string, box []byte) ([]byte, error) {
	if s == nil || len(box) < s.aead.NonceSize() {
		return nil, fmt.Errorf("signing key %s: %w", kid, ErrSealed)
	}
	n := s.aead.NonceSize()
	plain, err := s.aead.Open(nil, box[:n], box[n:], []byte(kid))
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", kid, ErrSealed)
	}
	return plain, nil
}

// sealAll encrypts the keys that were stored before a secret was set.
func (k *Keys) sealAll(ctx context.Context) error {
	if k.seal == nil {
		return nil
	}
	return k.db.InTx(ctx, func(tx *outbox.Tx) error {
		if err := lockKeys(ctx, tx); err != nil {
			return err
		}
		rows, err := selectKeys(ctx, tx, k.now())
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Sealed {
				continue
			}
			box, err := k.seal.close(r.Kid, r.PrivateKey)
			if err != nil {
				return err
			}
			sealKey(tx, r.Kid, box)
		}
		return nil
	})
}
