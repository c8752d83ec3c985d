package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// params of argon2id.
type params struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// current is what new hashes are made with: OWASP's first choice for argon2id
// in the password storage cheat sheet. Older hashes are upgraded at login.
var current = params{memory: 19 << 10, time: 2, threads: 1}

const (
	saltLen = 16
	keyLen  = 32
	// hashWait is how long a request waits for its turn to hash.
	hashWait = 5 * time.Second
	// hashQueue is how many requests may wait per slot.
	hashQueue = 32
	// hashIdle is how long nobody hashes before their memory is given back.
	hashIdle = time.Second
	// dummyPassword is what unknown users are compared with.
	dummyPassword = "nobody has this password"
)

// hasher hashes passwords, a bounded number at once: each hash takes 19 MiB and
// a core for some 30 ms, so without a bound a login storm takes the machine.
type hasher struct {
	slots   chan struct{}
	waiting atomic.Int64
	wait    time.Duration
	idle    *time.Timer // runs out when nobody has hashed for a while
	dummy   string      // compared with when there is no such user
}

func newHasher(concurrency int) (*hasher, error) {
	if concurrency <= 0 {
		concurrency = max(2, runtime.GOMAXPROCS(0))
	}
	h := &hasher{slots: make(chan struct{}, concurrency), wait: hashWait}
	var err error
	h.dummy, err = hashPassword(dummyPassword, current)
	h.idle = time.AfterFunc(hashIdle, h.rest)
	return h, err
}

// acquire takes a slot. When too many wait already, or the wait is too long,
// the client is told to come back.
func (h *hasher) acquire(ctx context.Context) (release func(), err error) {
	busy := &errs.Error{Kind: errs.Unavailable, Detail: "too many logins at once; try again", RetryAfter: 2 * time.Second}
	if h.waiting.Add(1) > int64(cap(h.slots)*hashQueue) {
		h.waiting.Add(-1)
		return nil, busy
	}
	defer h.waiting.Add(-1)
	limit := time.NewTimer(h.wait)
	defer limit.Stop()
	select {
	case h.slots <- struct{}{}:
		return h.release, nil
	case <-limit.C:
		return nil, busy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *hasher) release() {
	<-h.slots
	h.idle.Reset(hashIdle)
}

// rest gives the memory of past hashes back to the system. The collector would
// hold on to it until its next run, which in a quiet process is minutes away.
func (h *hasher) rest() {
	if len(h.slots) == 0 {
		debug.FreeOSMemory()
	}
}

// hash returns the PHC string of a new password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	release, err := h.acquire(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	return hashPassword(password, current)
}

// compare compares password with a stored hash; "" stands for a user who does
// not exist, takes the same time and never matches. upgraded is a new hash for
// a right password whose stored one was made with other parameters. The caller
// holds a slot.
func (h *hasher) compare(stored, password string) (ok bool, upgraded string, err error) {
	known := stored != ""
	if !known {
		stored = h.dummy
	}
	p, salt, want, err := parseHash(stored)
	if err != nil {
		return false, "", err
	}
	got := argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, uint32(len(want)))
	if subtle.ConstantTimeCompare(got, want) != 1 || !known {
		return false, "", nil
	}
	if p != current || len(want) != keyLen || len(salt) != saltLen {
		upgraded, err = hashPassword(password, current)
	}
	return true, upgraded, err
}

func hashPassword(password string, p params) (string, error) {
	salt := make([]byte, saltLen)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("salt: %w", err)
	}
	key := argon2.IDKey([]byte(password), salt, p.time, p.memory, p.threads, keyLen)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key)), nil
}

// parseHash reads a PHC string of ours.
func parseHash(s string) (p params, salt, key []byte, err error) {
	var version int
	var rest string
	if _, err = fmt.Sscanf(s, "$argon2id$v=%d$m=%d,t=%d,p=%d$%s", &version, &p.memory, &p.time, &p.threads, &rest); err != nil {
		return p, nil, nil, fmt.Errorf("password hash: %w", err)
	}
	for i := range len(rest) {
		if rest[i] != '$' {
			continue
		}
		if salt, err = base64.RawStdEncoding.DecodeString(rest[:i]); err == nil {
			key, err = base64.RawStdEncoding.DecodeString(rest[i+1:])
		}
		if err != nil {
			return p, nil, nil, fmt.Errorf("password hash: %w", err)
		}
		break
	}
	// A damaged row must not cost gigabytes.
	if version != argon2.Version || p.memory == 0 || p.memory > 1<<20 || p.time == 0 || p.time > 64 || p.threads == 0 || len(salt) < 8 || len(key) < 16 {
		return p, nil, nil, errors.New("password hash: unusable parameters")
	}
	return p, salt, key, nil
}
