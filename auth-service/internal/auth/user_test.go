package auth

import (
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/argon2"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

func TestEmailSyntax(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"ann@example.com", "Ann.B+tag@Example.co.uk", "a@b", "admin@tiffin.local", "o'neil@x-y.z", "1@2.3",
		strings.Repeat("l", 64) + "@" + strings.Repeat("d", 63) + ".com",
	} {
		require.Empty(t, emailProblem(good), good)
	}
	for _, bad := range []string{
		"", "@", "a@", "@b", "ab", "a@b@c", "a b@c.d", " a@b.c", "a@b.c ", "a@b..c", "a@.b", "a@b.", ".a@b.c", "a.@b.c", "a..b@c.d",
		"a@-b.c", "a@b-.c", "a@b_c.d", "a\x00@b.c", "a@b.c\n", "a@b.c\r\nBcc: x@y.z", "Ann <a@b.c>", `"a b"@c.d`, "a@[127.0.0.1]",
		"a@b,c", "a;b@c.d", "ö@b.c", "a@ö.de", "a\xff@b.c",
		strings.Repeat("l", 65) + "@b.c", "a@" + strings.Repeat("d", 64) + ".c", "a@" + strings.Repeat("dd.", 90) + "c",
	} {
		require.NotEmpty(t, emailProblem(bad), bad)
	}
}

func TestPasswordRules(t *testing.T) {
	t.Parallel()
	for password, ok := range map[string]bool{
		"1234567": false, "12345678": true, strings.Repeat("ö", 7): false, strings.Repeat("ö", 8): true,
		strings.Repeat("ö", 128): true, strings.Repeat("x", 129): false, "ann@example.com": false, "ANN@Example.com": false, "": false,
	} {
		require.Equal(t, ok, passwordProblem(password, "Ann@example.com") == "", password)
	}
}

func TestNewUserListsAllProblemsAndTrimsTheName(t *testing.T) {
	t.Parallel()
	n, err := NewUser{Email: "a@b.c", Password: "12345678", Name: "  Ann  "}.check()
	require.NoError(t, err)
	require.Equal(t, "Ann", n.Name)
	_, err = NewUser{Name: "a\tb"}.check()
	require.Equal(t, errs.Invalid, errs.KindOf(err))
	for _, pointer := range []string{"/email", "/password", "/name"} {
		require.ErrorContains(t, err, pointer)
	}
}

func TestUserAgentBecomesStorable(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", "curl", "\xff\xfe", "a\x00b", strings.Repeat("ö", 1000)} {
		out := Client{UserAgent: in}.agent()
		require.True(t, utf8.ValidString(out))
		require.NotContains(t, out, "\x00")
		require.LessOrEqual(t, utf8.RuneCountInString(out), maxAgent)
	}
}

func TestHashesAreSaltedAndRead(t *testing.T) {
	t.Parallel()
	a, err := hashPassword("secret", current)
	require.NoError(t, err)
	b, err := hashPassword("secret", current)
	require.NoError(t, err)
	require.NotEqual(t, a, b)
	require.True(t, strings.HasPrefix(a, "$argon2id$v=19$m=19456,t=2,p=1$"), a)
	p, salt, key, err := parseHash(a)
	require.NoError(t, err)
	require.Equal(t, current, p)
	require.Equal(t, argon2.IDKey([]byte("secret"), salt, 2, 19456, 1, 32), key)

	for _, bad := range []string{
		"", "secret", "$2a$10$abc", "$argon2i$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=16$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=4294967295,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=0,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=0$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=19456,t=2,p=1$$", "$argon2id$v=19$m=19456,t=2,p=1$!$!", "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA",
	} {
		_, _, _, err := parseHash(bad)
		require.Error(t, err, bad)
	}
}

func TestNobodysPasswordMatchesNobody(t *testing.T) {
	t.Parallel()
	h, err := newHasher(1)
	require.NoError(t, err)
	ok, _, err := h.compare(h.dummy, dummyPassword)
	require.NoError(t, err)
	require.True(t, ok, "what unknown users are compared with")
	ok, upgraded, err := h.compare("", dummyPassword)
	require.NoError(t, err)
	require.False(t, ok)
	require.Empty(t, upgraded)
}

func TestHasherBoundsWhatRunsAndWhatWaits(t *testing.T) {
	t.Parallel()
	h, err := newHasher(1)
	require.NoError(t, err)
	release, err := h.acquire(t.Context())
	require.NoError(t, err)

	// One too many in the queue is told to come back at once.
	results := make(chan error, hashQueue)
	for range hashQueue {
		go func() {
			release, err := h.acquire(t.Context())
			if err == nil {
				release()
			}
			results <- err
		}()
	}
	require.Eventually(t, func() bool { return h.waiting.Load() == hashQueue }, time.Minute, time.Millisecond)
	_, err = h.acquire(t.Context())
	require.Equal(t, errs.Unavailable, errs.KindOf(err))
	release()
	for range hashQueue {
		require.NoError(t, <-results)
	}

	// A wait that is too long ends too.
	h.wait = 10 * time.Millisecond
	release, err = h.acquire(t.Context())
	require.NoError(t, err)
	_, err = h.acquire(t.Context())
	require.Equal(t, errs.Unavailable, errs.KindOf(err))
	release()
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]string{
		"203.0.113.9": "203.0.113.9", "::ffff:203.0.113.9": "203.0.113.9",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		require.Equal(t, want, network(netip.MustParseAddr(ip)))
	}
	require.Equal(t, "unknown", network(netip.Addr{}))
}

func TestSealedKeysOpenOnlyWithTheirSecretAndKid(t *testing.T) {
	t.Parallel()
	s := newSealer(strings.Repeat("s", 32))
	box, err := s.close("kid", []byte("private"))
	require.NoError(t, err)
	require.NotContains(t, string(box), "private")
	plain, err := s.open("kid", box)
	require.NoError(t, err)
	require.Equal(t, "private", string(plain))

	_, err = s.open("other", box)
	require.ErrorIs(t, err, ErrSealed)
	_, err = newSealer(strings.Repeat("t", 32)).open("kid", box)
	require.ErrorIs(t, err, ErrSealed)
	_, err = (*sealer)(nil).open("kid", box)
	require.ErrorIs(t, err, ErrSealed)
	for i := range box {
		damaged := append([]byte(nil), box...)
		damaged[i] ^= 1
		_, err = s.open("kid", damaged)
		require.ErrorIs(t, err, ErrSealed)
	}
	_, err = s.open("kid", box[:4])
	require.ErrorIs(t, err, ErrSealed)
}
