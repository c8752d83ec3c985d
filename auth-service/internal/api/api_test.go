package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/auth-service/internal/api"
	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
	"github.com/tiffin-platform/tiffin/auth-service/internal/auth/migrations"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) { http.DefaultClient.CloseIdleConnections() }))
}

// server is the real service behind a real HTTP server.
type server struct {
	t    *testing.T
	url  string
	pool *pgxpool.Pool
	svc  *auth.Service
	keys *auth.Keys
}

const adminEmail, adminPassword = "admin@tiffin.test", "an admin's password"

func setup(t *testing.T) *server {
	t.Helper()
	pool := pgtest.New(t, migrations.Files)
	log := slog.New(slog.DiscardHandler)
	db := outbox.NewDB(pool, nil)
	reg := prometheus.NewRegistry()
	keys := auth.NewKeys(db, postgres.NewDoorbell(pool, log), auth.KeysConfig{Lifetime: 24 * time.Hour, AccessTTL: 15 * time.Minute}, log, reg)
	require.NoError(t, keys.Open(t.Context()))
	svc, err := auth.NewService(db, keys, auth.Config{
		Issuer: "https://tiffin.test", Audience: "tiffin-test", AccessTTL: 15 * time.Minute,
		RefreshTTL: 30 * 24 * time.Hour, RefreshGrace: time.Minute, AuditRetention: time.Hour,
	}, log, reg)
	require.NoError(t, err)
	require.NoError(t, svc.EnsureAdmin(t.Context(), adminEmail, adminPassword))
	v := authn.NewVerifier(authn.Config{Issuer: "https://tiffin.test", Audience: "tiffin-test"}, keys.Set(), log, reg)
	srv := httptest.NewServer(api.Routes(svc, keys, v, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, log, reg))
	t.Cleanup(srv.Close)
	return &server{t, srv.URL, pool, svc, keys}
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	require.NoError(t, json.Unmarshal([]byte(a.body), &v), a.body)
	return v
}

// call sends a request; header lines are "Name: value".
func (s *server) call(method, path, token, body string, header ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+path, strings.NewReader(body))
	require.NoError(s.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("User-Agent", "test")
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// is compares a whole JSON body. "<uuid>", "<time>" and "<text>" stand for any.
func is(t *testing.T, want, got string) {
	t.Helper()
	var w, g any
	require.NoError(t, json.Unmarshal([]byte(want), &w), want)
	require.NoError(t, json.Unmarshal([]byte(got), &g), got)
	blank(t, w, &g)
	require.Equal(t, w, g, got)
}

func blank(t *testing.T, want any, got *any) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		if g, ok := (*got).(map[string]any); ok {
			for name := range w {
				if v, ok := g[name]; ok {
					blank(t, w[name], &v)
					g[name] = v
				}
			}
		}
	case []any:
		if g, ok := (*got).([]any); ok {
			for i := range min(len(w), len(g)) {
				blank(t, w[i], &g[i])
			}
		}
	case string:
		text, ok := (*got).(string)
		switch {
		case !ok:
		case w == "<uuid>":
			require.Len(t, text, 36)
			_, err := uuid.Parse(text)
			require.NoError(t, err)
			*got = w
		case w == "<time>":
			_, err := time.Parse(time.RFC3339, text)
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(text, "Z"), text)
			*got = w
		case w == "<text>":
			require.NotEmpty(t, text)
			*got = w
		}
	}
}

func (s *server) register(email string) string {
	s.t.Helper()
	a := s.call("POST", "/auth/register", "", fmt.Sprintf(`{"email":%q,"password":"a good password","name":"Ann"}`, email))
	require.Equal(s.t, 201, a.status, a.body)
	return a.json(s.t)["id"].(string)
}

func (s *server) login(email, password string) (access, refresh string) {
	s.t.Helper()
	a := s.call("POST", "/auth/login", "", fmt.Sprintf(`{"email":%q,"password":%q}`, email, password))
	require.Equal(s.t, 200, a.status, a.body)
	v := a.json(s.t)
	return v["access_token"].(string), v["refresh_token"].(string)
}

func TestAnAccountsLife(t *testing.T) {
	t.Parallel()
	s := setup(t)
	a := s.call("POST", "/auth/register", "", `{"email":"Ann@Example.com","password":"a good password","name":" Ann Ö "}`)
	require.Equal(t, 201, a.status)
	user := `{"id":"<uuid>","email":"Ann@Example.com","name":"Ann Ö","role":"Customer","created_at":"<time>"}`
	is(t, user, a.body)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))

	a = s.call("POST", "/auth/register", "", `{"email":"aNN@eXAMPLE.COM","password":"a good password","name":"Eve"}`)
	require.Equal(t, 409, a.status)
	is(t, `{"type":"/problems/conflict","title":"Conflict","status":409,"detail":"there is an account with this e-mail address","instance":"/auth/register","request_id":"<text>"}`, a.body)

	a = s.call("POST", "/auth/login", "", `{"email":"ANN@example.com","password":"a good password"}`)
	require.Equal(t, 200, a.status)
	is(t, `{"access_token":"<text>","token_type":"Bearer","expires_in":900,"refresh_token":"<text>","refresh_expires_in":2592000}`, a.body)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))
	access, refresh := a.json(t)["access_token"].(string), a.json(t)["refresh_token"].(string)
	require.Len(t, refresh, 43)

	a = s.call("GET", "/auth/me", access, "")
	require.Equal(t, 200, a.status)
	is(t, user, a.body)

	a = s.call("POST", "/auth/refresh", "", `{"refresh_token":"`+refresh+`"}`)
	require.Equal(t, 200, a.status)
	is(t, `{"access_token":"<text>","token_type":"Bearer","expires_in":900,"refresh_token":"<text>","refresh_expires_in":2592000}`, a.body)
	next := a.json(t)["refresh_token"].(string)
	require.NotEqual(t, refresh, next)
	a = s.call("POST", "/auth/refresh", "", `{"refresh_token":"`+refresh+`"}`)
	require.Equal(t, 409, a.status, "within the grace")

	a = s.call("GET", "/auth/sessions", access, "")
	require.Equal(t, 200, a.status)
	is(t, `{"items":[{"id":"<uuid>","created_at":"<time>","last_used_at":"<time>","user_agent":"test","ip":"127.0.0.1","current":true}]}`, a.body)

	require.Equal(t, 204, s.call("POST", "/auth/logout", "", `{"refresh_token":"`+next+`"}`).status)
	require.Equal(t, 204, s.call("POST", "/auth/logout", "", `{"refresh_token":"`+next+`"}`).status, "again")
	require.Equal(t, 204, s.call("POST", "/auth/logout", "", `{"refresh_token":"unknown"}`).status)
	a = s.call("POST", "/auth/refresh", "", `{"refresh_token":"`+next+`"}`)
	require.Equal(t, 401, a.status)
	is(t, `{"type":"/problems/unauthenticated","title":"Not authenticated","status":401,"detail":"the refresh token is not valid; log in again","instance":"/auth/refresh","request_id":"<text>"}`, a.body)
	require.Equal(t, "Bearer", a.header.Get("WWW-Authenticate"))
}

func TestSessionsAreListedInPagesAndEnded(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.register("ann@example.com")
	s.register("bob@example.com")
	var access []string
	for range 3 {
		a, _ := s.login("ann@example.com", "a good password")
		access = append(access, a)
	}
	bob, _ := s.login("bob@example.com", "a good password")

	var ids []string
	cursor := ""
	for page := range 2 {
		a := s.call("GET", "/auth/sessions?limit=2&cursor="+cursor, access[2], "")
		require.Equal(t, 200, a.status)
		v := a.json(t)
		items := v["items"].([]any)
		require.Len(t, items, 2-page)
		for _, i := range items {
			m := i.(map[string]any)
			require.Equal(t, len(ids) == 0, m["current"], "newest first, and that one asked")
			ids = append(ids, m["id"].(string))
		}
		cursor, _ = v["next_cursor"].(string)
		require.Equal(t, page == 0, cursor != "")
	}
	require.Len(t, ids, 3)

	// Somebody else's session, unknown ones and words are all not found.
	for _, id := range []string{ids[1], uuid.NewString(), "word", "%7B" + ids[0] + "%7D"} {
		require.Equal(t, 404, s.call("DELETE", "/auth/sessions/"+id, bob, "").status, id)
	}
	require.Equal(t, 204, s.call("DELETE", "/auth/sessions/"+ids[1], access[2], "").status)
	require.Equal(t, 404, s.call("DELETE", "/auth/sessions/"+ids[1], access[2], "").status)
	require.Len(t, s.call("GET", "/auth/sessions", access[2], "").json(t)["items"], 2)
}

func TestPasswordChangeEndsTheOtherSessions(t *testing.T) {
	t.Parallel()
	s := setup(t)
	s.register("ann@example.com")
	mine, myRefresh := s.login("ann@example.com", "a good password")
	_, otherRefresh := s.login("ann@example.com", "a good password")

	a := s.call("POST", "/auth/password", mine, `{"current_password":"wrong","new_password":"a better password"}`)
	require.Equal(t, 403, a.status)
	is(t, `{"type":"/problems/forbidden","title":"Not allowed","status":403,"detail":"the current password is wrong","instance":"/auth/password","request_id":"<text>"}`, a.body)
	a = s.call("POST", "/auth/password", mine, `{"current_password":"","new_password":"ANN@example.com"}`)
	require.Equal(t, 422, a.status)
	is(t, `{"type":"/problems/invalid","title":"Invalid request","status":422,"detail":"the request has problems; see errors","instance":"/auth/password","request_id":"<text>",
		"errors":[{"pointer":"/current_password","detail":"is required"},{"pointer":"/new_password","detail":"must not be the e-mail address"}]}`, a.body)

	require.Equal(t, 204, s.call("POST", "/auth/password", mine, `{"current_password":"a good password","new_password":"a better password"}`).status)
	require.Equal(t, 401, s.call("POST", "/auth/refresh", "", `{"refresh_token":"`+otherRefresh+`"}`).status)
	require.Equal(t, 200, s.call("POST", "/auth/refresh", "", `{"refresh_token":"`+myRefresh+`"}`).status)
	require.Equal(t, 401, s.call("POST", "/auth/login", "", `{"email":"ann@example.com","password":"a good password"}`).status)
	s.login("ann@example.com", "a better password")
}

func TestAdminsManageUsers(t *testing.T) {
	t.Parallel()
	s := setup(t)
	admin, _ := s.login(adminEmail, adminPassword)
	me := s.call("GET", "/auth/me", admin, "").json(t)
	require.Equal(t, "Admin", me["role"])
	ann := s.register("ann@example.com")
	bob := s.register("bob@example.com")
	customer, annRefresh := s.login("ann@example.com", "a good password")

	for _, c := range []struct{ method, path string }{{"GET", "/admin/users"}, {"PUT", "/admin/users/" + ann + "/role"}, {"GET", "/admin/nothing"}, {"PATCH", "/admin/users"}} {
		a := s.call(c.method, c.path, customer, `{"role":"Admin"}`)
		require.Equal(t, 403, a.status, c)
		require.Equal(t, 401, s.call(c.method, c.path, "", `{"role":"Admin"}`).status, c)
	}
	require.Equal(t, 404, s.call("GET", "/admin/nothing", admin, "").status)

	a := s.call("GET", "/admin/users?limit=2", admin, "")
	require.Equal(t, 200, a.status)
	v := a.json(t)
	is(t, fmt.Sprintf(`{"items":[
		{"id":%q,"email":"bob@example.com","name":"Ann","role":"Customer","created_at":"<time>"},
		{"id":%q,"email":"ann@example.com","name":"Ann","role":"Customer","created_at":"<time>"}],"next_cursor":"<text>"}`, bob, ann), a.body)
	a = s.call("GET", "/admin/users?limit=2&cursor="+v["next_cursor"].(string), admin, "")
	is(t, `{"items":[{"id":"<uuid>","email":"admin@tiffin.test","name":"Admin","role":"Admin","created_at":"<time>"}]}`, a.body)
	is(t, fmt.Sprintf(`{"items":[{"id":%q,"email":"ann@example.com","name":"Ann","role":"Customer","created_at":"<time>"}]}`, ann),
		s.call("GET", "/admin/users?email=ANN@example.com", admin, "").body)
	for _, none := range []string{"nobody@example.com", "no%20address", "%00", "%ff@example.com"} {
		is(t, `{"items":[]}`, s.call("GET", "/admin/users?email="+none, admin, "").body)
	}

	require.Equal(t, 409, s.call("PUT", "/admin/users/"+me["id"].(string)+"/role", admin, `{"role":"Customer"}`).status, "the last Admin")
	a = s.call("PUT", "/admin/users/"+ann+"/role", admin, `{"role":"Admin"}`)
	require.Equal(t, 200, a.status)
	is(t, fmt.Sprintf(`{"id":%q,"email":"ann@example.com","name":"Ann","role":"Admin","created_at":"<time>"}`, ann), a.body)
	require.Equal(t, 200, s.call("PUT", "/admin/users/"+ann+"/role", admin, `{"role":"Admin"}`).status, "again")

	// The old token keeps the old role, the next one has the new.
	require.Equal(t, 403, s.call("GET", "/admin/users", customer, "").status)
	a = s.call("POST", "/auth/refresh", "", `{"refresh_token":"`+annRefresh+`"}`)
	next := a.json(t)["access_token"].(string)
	require.Equal(t, 200, s.call("GET", "/admin/users", next, "").status)
	require.Equal(t, 200, s.call("PUT", "/admin/users/"+me["id"].(string)+"/role", admin, `{"role":"Customer"}`).status)
	require.Equal(t, 403, s.call("PUT", "/admin/users/"+me["id"].(string)+"/role", admin, `{"role":"Admin"}`).status, "not with the token of before")
	admin = next

	for body, status := range map[string]int{`{"role":"Root"}`: 422, `{"role":""}`: 422, `{}`: 422, `{"role":1}`: 400, `{"role":"Admin","x":1}`: 400, ``: 415} {
		require.Equal(t, status, s.call("PUT", "/admin/users/"+ann+"/role", admin, body).status, body)
	}
	require.Equal(t, 404, s.call("PUT", "/admin/users/"+uuid.NewString()+"/role", admin, `{"role":"Admin"}`).status)
	require.Equal(t, 404, s.call("PUT", "/admin/users/me/role", admin, `{"role":"Admin"}`).status)
}

func TestJWKS(t *testing.T) {
	t.Parallel()
	s := setup(t)
	a := s.call("GET", "/.well-known/jwks.json", "", "")
	require.Equal(t, 200, a.status)
	is(t, `{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":"<uuid>","n":"<text>","e":"AQAB"}]}`, a.body)
	require.Equal(t, "public, max-age=300", a.header.Get("Cache-Control"))
	keys, err := authn.ParseJWKS([]byte(a.body))
	require.NoError(t, err)
	require.Len(t, keys, 1)
}
