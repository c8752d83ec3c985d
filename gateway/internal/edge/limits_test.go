package edge

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

func TestLimitsPerAddress(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := setup(t, options{rates: map[string]string{"ip": "2/s"}, now: c.now, proxies: []string{"127.0.0.1/32"}})
	from := func(addr string) answer { return r.get("/restaurants", "", "X-Forwarded-For", addr) }
	for i := range 4 {
		a := from("192.0.2.1")
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.Equal(t, `"ip";q=4;w=2`, a.Header.Get("RateLimit-Policy"), "on good answers too")
		require.Equal(t, fmt.Sprintf(`"ip";r=%d;t=%d`, 3-i, (i+2)/2), a.Header.Get("RateLimit"))
	}
	a := from("192.0.2.1")
	require.Equal(t, http.StatusTooManyRequests, a.StatusCode)
	require.Equal(t, "/problems/rate_limited", a.problem(t).Type)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.Equal(t, `"ip";q=4;w=2`, a.Header.Get("RateLimit-Policy"))
	require.Equal(t, `"ip";r=0;t=2`, a.Header.Get("RateLimit"))
	require.Equal(t, http.StatusOK, from("192.0.2.2").StatusCode, "others are not affected")
	c.pass(time.Second)
	require.Equal(t, http.StatusOK, from("192.0.2.1").StatusCode, "after Retry-After")
}

func TestInventedAddressesDoNotGetAround(t *testing.T) {
	t.Parallel()
	r := setup(t, options{rates: map[string]string{"ip": "2/s"}, now: newClock().now})
	denied := 0
	for i := range 10 {
		if r.get("/restaurants", "", "X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i), "X-Real-IP", fmt.Sprintf("192.0.2.%d", i)).StatusCode == http.StatusTooManyRequests {
			denied++
		}
	}
	require.Equal(t, 6, denied)
}

func TestLimitsPerUserFollowTheUserNotTheToken(t *testing.T) {
	t.Parallel()
	c := newClock()
	r := setup(t, options{rates: map[string]string{"ip": "1000/s", "user": "1/s"}, now: c.now})
	id := uuid.Must(uuid.NewV7())
	first, second := r.issuer.Token(id, authn.Customer), r.issuer.Token(id, authn.Customer)
	a := r.get("/orders", first)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Equal(t, `"ip";q=2000;w=2, "user";q=2;w=2`, a.Header.Get("RateLimit-Policy"))
	require.Equal(t, `"ip";r=1999;t=1, "user";r=1;t=1`, a.Header.Get("RateLimit"))
	require.Equal(t, http.StatusOK, r.get("/orders", second).StatusCode)
	a = r.get("/orders", second)
	require.Equal(t, http.StatusTooManyRequests, a.StatusCode)
	require.Equal(t, "1", a.Header.Get("Retry-After"))
	require.Equal(t, http.StatusOK, r.get("/orders", r.customer).StatusCode, "another user")
	require.Equal(t, http.StatusOK, r.get("/restaurants", first).StatusCode, "public routes know no user")
	require.NotContains(t, r.get("/restaurants", first).Header.Get("RateLimit"), "user")
	c.pass(time.Second)
	require.Equal(t, http.StatusOK, r.get("/orders", first).StatusCode)
}

func TestLoginsAreLimitedMoreStrictly(t *testing.T) {
	t.Parallel()
	r := setup(t, options{rates: map[string]string{"ip": "1000/s", "login": "2/m"}, now: newClock().now})
	for i, path := range []string{"/auth/register", "/auth/login", "/auth/login"} {
		a := r.do("POST", path, "", nil)
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.Equal(t, `"ip";q=2000;w=2, "login";q=4;w=120`, a.Header.Get("RateLimit-Policy"))
		require.Contains(t, a.Header.Get("RateLimit"), fmt.Sprintf(`"login";r=%d;`, 3-i))
	}
	require.Equal(t, http.StatusUnauthorized, r.do("POST", "/auth/password", "", nil).StatusCode, "counts before the token is looked at")
	for _, path := range []string{"/auth/register", "/auth/login", "/auth/password"} {
		a := r.do("POST", path, r.customer, nil)
		require.Equal(t, http.StatusTooManyRequests, a.StatusCode, path)
		seconds, err := strconv.Atoi(a.Header.Get("Retry-After"))
		require.NoError(t, err)
		require.Equal(t, 30, seconds)
	}
	for _, path := range []string{"/auth/refresh", "/auth/logout"} {
		require.Equal(t, http.StatusOK, r.do("POST", path, "", nil).StatusCode, path)
	}
	require.Equal(t, http.StatusOK, r.get("/auth/me", r.customer).StatusCode)
}

func TestCORSIsClosedUnlessSet(t *testing.T) {
	t.Parallel()
	ask := []string{"Origin", "https://app.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization"}
	closed := setup(t, options{})
	for _, a := range []answer{closed.do("OPTIONS", "/orders", "", nil, ask...), closed.get("/restaurants", "", "Origin", "https://app.example")} {
		for name := range a.Header {
			require.NotContains(t, name, "Access-Control")
		}
	}
	require.Equal(t, http.StatusUnauthorized, closed.do("OPTIONS", "/orders", "", nil, ask...).StatusCode)

	open := setup(t, options{origins: []string{"https://app.example"}, rates: map[string]string{"ip": "100/s"}})
	a := open.do("OPTIONS", "/orders", "", nil, ask...)
	require.Equal(t, http.StatusNoContent, a.StatusCode)
	require.Equal(t, "https://app.example", a.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "GET, HEAD, POST", a.Header.Get("Access-Control-Allow-Methods"))
	require.Contains(t, a.Header.Get("Access-Control-Allow-Headers"), "Authorization")
	require.Empty(t, a.Header.Get("Access-Control-Allow-Credentials"))
	require.Contains(t, a.Header.Values("Vary"), "Origin")
	require.NotEmpty(t, a.Header.Get("RateLimit"), "asking counts")
	for _, a := range []answer{open.get("/restaurants", "", "Origin", "https://app.example"), open.get("/orders", "", "Origin", "https://app.example")} {
		require.Equal(t, "https://app.example", a.Header.Get("Access-Control-Allow-Origin"), "refusals can be read too")
		require.Contains(t, a.Header.Get("Access-Control-Expose-Headers"), "RateLimit")
		require.Contains(t, a.Header.Values("Vary"), "Origin")
	}
	for _, origin := range []string{"https://evil.example", "https://app.example.evil.example", "http://app.example", "null", "https://APP.example"} {
		a := open.get("/restaurants", "", "Origin", origin)
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.Empty(t, a.Header.Get("Access-Control-Allow-Origin"), origin)
		require.Equal(t, http.StatusUnauthorized, open.do("OPTIONS", "/orders", "", nil, "Origin", origin, "Access-Control-Request-Method", "POST").StatusCode)
	}
	all := setup(t, options{origins: []string{"*"}})
	require.Equal(t, "*", all.get("/restaurants", "", "Origin", "https://anybody.example").Header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, open.requests()[0].Header.Get("Access-Control-Request-Method"))
}
