package api_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/auth-service/internal/api"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
)

func TestBadInputIsRefusedAndNothingStored(t *testing.T) {
	t.Parallel()
	s := setup(t)
	access, _ := s.login(adminEmail, adminPassword)
	long := strings.Repeat("x", 129)
	good := `{"email":"a@b.c","password":"a good password","name":"A"}`
	for body, status := range map[string]int{
		`{`: 400, `[]`: 400, `null`: 400, `"x"`: 400, ` `: 400, good + `{}`: 400, good + `x`: 400,
		`{"email":1,"password":"a good password","name":"A"}`:                       400,
		`{"email":"a@b.c","password":"a good password","name":"A","role":"Admin"}`:  400,
		`{"email":"a@b.c","email":"b@b.c","password":"a good password","name":"A"}`: 400,
		`{"Email":"a@b.c","password":"a good password","name":"A"}`:                 400,
		"{\"email\":\"a@b.c\",\"password\":\"a good password\",\"name\":\"\xff\"}":  400,
		`{"email":"a@b.c","password":"a good password","name":"\ud800"}`:            400,
		`{"x":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `}`:           400,
		`{}`: 422, `{"email":null,"password":null,"name":null}`: 422,
		`{"email":"a@b.c","password":"a good password","name":""}`:                                                               422,
		`{"email":"a@b.c","password":"a good password","name":"  "}`:                                                             422,
		`{"email":"a@b.c","password":"a good password","name":"` + long + `"}`:                                                   422,
		`{"email":"a@b.c","password":"a good password","name":"a\u0000b"}`:                                                       422,
		`{"email":"a@b.c","password":"a good password","name":"a\nb"}`:                                                           422,
		`{"email":"a@b.c","password":"short","name":"A"}`:                                                                        422,
		`{"email":"a@b.c","password":"` + long + `","name":"A"}`:                                                                 422,
		`{"email":"longer@b.c","password":"LONGER@b.c","name":"A"}`:                                                              422,
		`{"email":"nobody","password":"a good password","name":"A"}`:                                                             422,
		`{"email":"a\u0000@b.c","password":"a good password","name":"A"}`:                                                        422,
		`{"email":"a@b.c\r\nBcc: x@y.z","password":"a good password","name":"A"}`:                                                422,
		`{"email":"` + strings.Repeat("x", 60) + `@` + strings.Repeat("y.", 110) + `z","password":"a good password","name":"A"}`: 422,
	} {
		a := s.call("POST", "/auth/register", "", body)
		require.Equal(t, status, a.status, "%s: %s", body, a.body)
		require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
	}
	a := s.call("POST", "/auth/register", "", `{"email":"x","password":"short","name":""}`)
	is(t, `{"type":"/problems/invalid","title":"Invalid request","status":422,"detail":"the request has problems; see errors","instance":"/auth/register","request_id":"<text>","errors":[
		{"pointer":"/email","detail":"must be an e-mail address such as ann@example.com"},
		{"pointer":"/password","detail":"must be from 8 to 128 characters"},
		{"pointer":"/name","detail":"must be from 1 to 100 characters"}]}`, a.body)
	require.Equal(t, 413, s.call("POST", "/auth/register", "", strings.Repeat(" ", 1<<20+1)).status)
	require.Equal(t, 415, s.call("POST", "/auth/register", "", good, "Content-Type: text/plain").status)
	require.Equal(t, 415, s.call("POST", "/auth/register", "", good, "Content-Encoding: gzip").status)

	for path, bodies := range map[string]map[string]int{
		"/auth/login":    {`{`: 400, `{}`: 422, `{"email":"a@b.c"}`: 422, `{"email":"a\u0000b","password":"x"}`: 401, `{"email":"` + long + long + `","password":"x"}`: 401, `{"email":"a@b.c","password":"` + strings.Repeat("x", 100_000) + `"}`: 401},
		"/auth/refresh":  {`{`: 400, `{}`: 422, `{"refresh_token":1}`: 400, `{"refresh_token":"` + long + `"}`: 401, `{"refresh_token":"\u0000"}`: 401},
		"/auth/logout":   {`{`: 400, `{}`: 422, `{"refresh_token":"x","y":1}`: 400},
		"/auth/password": {`{`: 400, `{}`: 422, `{"current_password":"x","new_password":"short"}`: 422},
	} {
		for body, status := range bodies {
			a := s.call("POST", path, access, body)
			require.Equal(t, status, a.status, "%s %.80s: %s", path, body, a.body)
		}
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "limit=-1", "cursor=%21", "cursor=eA", "cursor=" + long} {
		require.Equal(t, 400, s.call("GET", "/auth/sessions?"+query, access, "").status, query)
		require.Equal(t, 400, s.call("GET", "/admin/users?"+query, access, "").status, query)
	}
	require.Equal(t, 400, s.call("DELETE", "/auth/sessions/"+uuid.NewString(), access, `{}`).status)
	var users int
	require.NoError(t, s.pool.QueryRow(t.Context(), `select count(*) from users`).Scan(&users))
	require.Equal(t, 1, users)
}

func TestTokenComesBeforeMethodAndPath(t *testing.T) {
	t.Parallel()
	s := setup(t)
	access, _ := s.login(adminEmail, adminPassword)
	for path, allow := range map[string]string{"/auth/me": "GET", "/auth/password": "POST", "/auth/sessions": "GET", "/auth/sessions/" + uuid.NewString(): "DELETE", "/admin/users": "GET"} {
		a := s.call("PATCH", path, "", "")
		require.Equal(t, 401, a.status, path)
		require.Equal(t, "Bearer", a.header.Get("WWW-Authenticate"))
		a = s.call("PATCH", path, access, "")
		require.Equal(t, 405, a.status, path)
		require.Equal(t, allow, a.header.Get("Allow"))
	}
	for _, path := range []string{"/auth/me/x", "/auth/password/x", "/auth/sessions/x/y", "/admin/x"} {
		require.Equal(t, 401, s.call("GET", path, "", "").status, path)
		require.Equal(t, 404, s.call("GET", path, access, "").status, path)
	}
	a := s.call("GET", "/auth/login", "", "")
	require.Equal(t, 405, a.status)
	require.Equal(t, "POST", a.header.Get("Allow"))
	require.Equal(t, 404, s.call("GET", "/auth/nothing", "", "").status)
	a = s.call("GET", "/auth/me", access+"x", "")
	require.Equal(t, 401, a.status)
	require.Equal(t, `Bearer error="invalid_token"`, a.header.Get("WWW-Authenticate"))
	require.Equal(t, 401, s.call("GET", "/auth/me", "", "", "X-User-Id: "+uuid.NewString(), "X-Role: Admin").status)
}

func TestClientAddressIsBelievedFromTrustedPeersOnly(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.register("ann@example.com")
	ip := func(header ...string) string {
		a := s.call("POST", "/auth/login", "", `{"email":"ann@example.com","password":"a good password"}`, header...)
		require.Equal(t, 200, a.status, a.body)
		b := s.call("GET", "/auth/sessions?limit=1", a.json(t)["access_token"].(string), "")
		return b.json(t)["items"].([]any)[0].(map[string]any)["ip"].(string)
	}
	require.Equal(t, "127.0.0.1", ip())
	require.Equal(t, "203.0.113.9", ip("X-Forwarded-For: 203.0.113.9"))
	require.Equal(t, "203.0.113.9", ip("X-Forwarded-For: 10.0.0.1, 203.0.113.9"), "what the proxy itself wrote is last")
	require.Equal(t, "2001:db8::1", ip("X-Forwarded-For: 2001:db8::1"))
	require.Equal(t, "127.0.0.1", ip("X-Forwarded-For: nonsense"))
	require.Equal(t, "127.0.0.1", ip("X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9"))

	// The same service with nobody trusted.
	log, reg := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	v := authn.NewVerifier(authn.Config{Issuer: "https://tiffin.test", Audience: "tiffin-test"}, s.keys.Set(), log, reg)
	alone := httptest.NewServer(api.Routes(s.svc, s.keys, v, nil, log, reg))
	t.Cleanup(alone.Close)
	s.url = alone.URL
	require.Equal(t, "127.0.0.1", ip("X-Forwarded-For: 203.0.113.9"))
}

func TestOddUserAgentsAreStored(t *testing.T) {
	t.Parallel()
	s := setup(t)
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/auth/login",
		bytes.NewReader(fmt.Appendf(nil, `{"email":%q,"password":%q}`, adminEmail, adminPassword)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header["User-Agent"] = []string{"\xff\xfe"}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 200, resp.StatusCode)
}

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	s := setup(t)
	i := authntest.New(t)
	log := slog.New(slog.DiscardHandler)
	srv := httptest.NewServer(api.Routes(s.svc, s.keys, i.Verifier(), nil, log, prometheus.NewRegistry()))
	t.Cleanup(srv.Close)
	i.RequireRefused(t, srv.URL+"/auth/sessions")
	i.RequireRefused(t, srv.URL+"/admin/users")
}

func TestNoPathLeadsAroundARole(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.register("ann@example.com")
	customer, _ := s.login("ann@example.com", "a good password")
	addr := strings.TrimPrefix(s.url, "http://")
	httpxtest.RequireNoWayAround(t, addr, customer, "/auth", "/admin/users")
	httpxtest.RequireNoWayAround(t, addr, "", "/auth/login", "/auth/sessions")
}
