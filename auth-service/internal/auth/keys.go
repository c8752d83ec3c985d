package auth

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	keyBits = 2048
	// JWKSMaxAge is how long anybody may cache the JWKS.
	JWKSMaxAge = 5 * time.Minute
	// publishAhead is how long a key stands in the JWKS before it signs: the
	// JWKS may be cached for JWKSMaxAge, and verifiers fetch it every minute
	// (JWKS_REFRESH_INTERVAL); the rest is for clocks.
	publishAhead = JWKSMaxAge + 5*time.Minute
	// keysEvery is how often a replica looks for what others did with the keys.
	keysEvery = 10 * time.Second
	keysBell  = "signing_keys"
)

// KeysConfig says how signing keys are made and kept.
type KeysConfig struct {
	Lifetime  time.Duration // how long a key signs
	AccessTTL time.Duration // of the tokens it signs
	Secret    string        // seals private keys in the database; "" leaves them readable there
}

// signingKey is an RSA key with its schedule: it signs in [SignFrom,
// SignUntil) and verifies until VerifyUntil, when its last token has ended.
type signingKey struct {
	ID                               string
	Key                              *rsa.PrivateKey
	Created                          time.Time
	SignFrom, SignUntil, VerifyUntil time.Time
}

// Keys are the signing keys of all replicas. They live in the database; each
// replica holds a copy, which it follows by polling and by doorbell.
type Keys struct {
	cfg  KeysConfig
	seal *sealer
	db   *outbox.DB
	bell *postgres.Doorbell
	log  *slog.Logger
	now  func() time.Time
	set  *authn.KeySet
	keys atomic.Pointer[[]signingKey] // newest SignFrom first
}

// NewKeys returns the keys of db. Open loads them.
func NewKeys(db *outbox.DB, bell *postgres.Doorbell, cfg KeysConfig, log *slog.Logger, reg prometheus.Registerer) *Keys {
	k := &Keys{cfg: cfg, seal: newSealer(cfg.Secret), db: db, bell: bell, log: log, now: time.Now, set: authn.NewKeySet()}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tiffin_auth_signing_seconds_left",
		Help: "How long this replica can go on signing with the keys it knows.",
	}, k.secondsLeft))
	return k
}

// Open loads the keys and makes the first one where there is none. Any number
// of replicas may call it at once.
func (k *Keys) Open(ctx context.Context) error {
	if err := k.maintain(ctx); err != nil {
		return err
	}
	return k.sealAll(ctx)
}

// Set returns the public keys, kept up to date by Run.
func (k *Keys) Set() *authn.KeySet { return k.set }

// Run makes keys in time for their first use, forgets ended ones and follows
// what other replicas do, until ctx ends.
func (k *Keys) Run(ctx context.Context) error {
	wake, stop := k.bell.Subscribe(keysBell)
	defer stop()
	tick := time.NewTicker(keysEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-tick.C:
		}
		if err := k.maintain(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "signing keys not refreshed, trying again",
				"error", postgres.Explain(err).Error(), "seconds_left", int(k.secondsLeft()))
		}
	}
}

func (k *Keys) maintain(ctx context.Context) error {
	keys, err := k.load(ctx, k.db.Pool)
	if err != nil {
		return err
	}
	if k.due(keys) {
		keys, err = k.extend(ctx)
		if err != nil {
			return err
		}
	}
	k.publish(keys)
	return nil
}

func (k *Keys) publish(keys []signingKey) {
	public := make(map[string]*rsa.PublicKey, len(keys))
	for _, key := range keys {
		if k.now().Before(key.VerifyUntil) {
			public[key.ID] = &key.Key.PublicKey
		}
	}
	k.set.Set(public)
	k.keys.Store(&keys)
}

// prepare is how long before the end of the last key its successor is made:
// long enough to be published ahead even if this takes some tries.
func (k *Keys) prepare() time.Duration { return max(2*publishAhead, k.cfg.Lifetime/8) }

// due tells whether a key has to be made: nothing signs now, or the last key's
// end is near.
func (k *Keys) due(keys []signingKey) bool {
	now := k.now()
	until := time.Time{}
	for _, key := range keys {
		if key.SignUntil.After(until) {
			until = key.SignUntil
		}
	}
	return signingAt(keys, now) == nil || until.Sub(now) < k.prepare()
}

// extend makes the key that is due, unless another replica just did, and drops
// those whose tokens have all ended.
func (k *Keys) extend(ctx context.Context) ([]signingKey, error) {
	// Making an RSA key takes a while: not under the lock. Replicas that start
	// together make some for nothing, once.
	made, err := k.make()
	if err != nil {
		return nil, err
	}
	var keys []signingKey
	err = k.db.InTx(ctx, func(tx *outbox.Tx) error {
		if err := lockKeys(ctx, tx); err != nil {
			return err
		}
		if keys, err = k.load(ctx, tx); err != nil {
			return err
		}
		if !k.due(keys) {
			return nil
		}
		next := made
		now := k.now()
		next.SignFrom = now
		for _, key := range keys {
			if key.SignUntil.After(next.SignFrom) && signingAt(keys, now) != nil {
				next.SignFrom = key.SignUntil
			}
		}
		k.schedule(&next, next.SignFrom.Add(k.cfg.Lifetime))
		if err := k.insert(ctx, tx, next); err != nil {
			return err
		}
		deleteEndedKeys(tx, now)
		tx.Ring(keysBell)
		keys = append([]signingKey{next}, keys...)
		k.log.InfoContext(ctx, "signing key made", "kid", next.ID, "sign_from", next.SignFrom, "sign_until", next.SignUntil)
		return nil
	})
	return keys, err
}

// schedule sets when a key stops signing, and verifying: never sooner after it
// than was planned, for AccessTTL may have been longer when its tokens were made.
func (k *Keys) schedule(key *signingKey, until time.Time) {
	tokens := max(k.cfg.AccessTTL+authn.Leeway, key.VerifyUntil.Sub(key.SignUntil))
	key.SignUntil = until
	key.VerifyUntil = until.Add(tokens)
}

func (k *Keys) make() (signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return signingKey{}, fmt.Errorf("make signing key: %w", err)
	}
	return signingKey{ID: uuid.Must(uuid.NewV7()).String(), Key: key, Created: k.now()}, nil
}

// Rotate makes a key that takes over as soon as all verifiers can know it, and
// returns when that is.
//
// With revoke it takes over at once and every other key is gone from the JWKS:
// for a key that leaked. All access tokens end within a minute (verifiers'
// JWKS_REFRESH_INTERVAL); clients refresh theirs, sessions go on.
func (k *Keys) Rotate(ctx context.Context, revoke bool) (kid string, from time.Time, err error) {
	next, err := k.make()
	if err != nil {
		return "", time.Time{}, err
	}
	err = k.db.InTx(ctx, func(tx *outbox.Tx) error {
		if err := lockKeys(ctx, tx); err != nil {
			return err
		}
		now := k.now()
		next.SignFrom = now.Add(publishAhead)
		if revoke {
			next.SignFrom = now
			deleteAllKeys(tx)
		} else {
			keys, err := k.load(ctx, tx)
			if err != nil {
				return err
			}
			if signingAt(keys, now) == nil {
				next.SignFrom = now
			}
			for _, key := range keys {
				switch {
				case key.SignFrom.After(now): // never signed
					deleteKey(tx, key.ID)
				case key.SignUntil.After(next.SignFrom):
					k.schedule(&key, next.SignFrom)
					updateKey(tx, key)
				}
			}
		}
		k.schedule(&next, next.SignFrom.Add(k.cfg.Lifetime))
		if err := k.insert(ctx, tx, next); err != nil {
			return err
		}
		insertAudit(tx, audit{Kind: "keys_rotated", Detail: map[string]any{"kid": next.ID, "revoke": revoke}})
		tx.Ring(keysBell)
		return nil
	})
	return next.ID, next.SignFrom, err
}

// JWKS returns the published keys: next, current and retired.
func (k *Keys) JWKS() (authn.JWKS, error) {
	set := authn.JWKS{Keys: []authn.JWK{}}
	for _, key := range k.known() {
		if k.now().Before(key.VerifyUntil) {
			set.Keys = append(set.Keys, authn.NewJWK(key.ID, &key.Key.PublicKey))
		}
	}
	if len(set.Keys) == 0 {
		return set, errNoKey()
	}
	return set, nil
}

// signer returns the key to sign with at this moment.
func (k *Keys) signer() (*signingKey, error) {
	if key := signingAt(k.known(), k.now()); key != nil {
		return key, nil
	}
	return nil, errNoKey()
}

func errNoKey() error {
	return &errs.Error{Kind: errs.Unavailable, Detail: "no signing key is valid now; try again", RetryAfter: keysEvery}
}

func (k *Keys) known() []signingKey {
	if p := k.keys.Load(); p != nil {
		return *p
	}
	return nil
}

// signingAt returns the key that signs at a time: the one that began last.
func signingAt(keys []signingKey, at time.Time) *signingKey {
	var found *signingKey
	for i := range keys {
		key := &keys[i]
		if !at.Before(key.SignFrom) && at.Before(key.SignUntil) && (found == nil || key.SignFrom.After(found.SignFrom)) {
			found = key
		}
	}
	return found
}

func (k *Keys) secondsLeft() float64 {
	now, until := k.now(), time.Time{}
	if signingAt(k.known(), now) == nil {
		return 0
	}
	for _, key := range k.known() {
		if key.SignUntil.After(until) {
			until = key.SignUntil
		}
	}
	return until.Sub(now).Seconds()
}

// Ready returns nil when there is a key to sign with.
func (k *Keys) Ready(context.Context) error {
	if signingAt(k.known(), k.now()) == nil {
		return errors.New("no signing key is valid now")
	}
	return nil
}

func (k *Keys) load(ctx context.Context, q querier) ([]signingKey, error) {
	rows, err := selectKeys(ctx, q, k.now())
	if err != nil {
		return nil, err
	}
	keys := make([]signingKey, 0, len(rows))
	for _, r := range rows {
		times := signingKey{ID: r.Kid, Created: r.CreatedAt, SignFrom: r.SignFrom, SignUntil: r.SignUntil, VerifyUntil: r.VerifyUntil}
		if known := k.find(r.Kid); known != nil {
			times.Key = known.Key // reading one takes a while; its times may have changed
			keys = append(keys, times)
			continue
		}
		der := r.PrivateKey
		if r.Sealed {
			if der, err = k.seal.open(r.Kid, der); err != nil {
				return nil, err
			}
		}
		parsed, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", r.Kid, err)
		}
		key, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("signing key %s is no RSA key", r.Kid)
		}
		times.Key = key
		keys = append(keys, times)
	}
	return keys, nil
}

func (k *Keys) find(kid string) *signingKey {
	for _, key := range k.known() {
		if key.ID == kid {
			return &key
		}
	}
	return nil
}

func (k *Keys) insert(ctx context.Context, tx *outbox.Tx, key signingKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key.Key)
	if err != nil {
		return fmt.Errorf("encode signing key: %w", err)
	}
	if k.seal != nil {
		if der, err = k.seal.close(key.ID, der); err != nil {
			return err
		}
	}
	return insertKey(ctx, tx, key, der, k.seal != nil)
}
