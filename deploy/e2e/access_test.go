//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func join(s []string) string { return strings.Join(s, " ") }

func TestCustomersSeeTheirOwnOnly(t *testing.T) {
	t.Parallel()
	owner, _ := user(t, 0)
	other, _ := user(t, 1)
	o := owner.place(visa)
	owner.waitStatus(o.ID, "confirmed")
	p := owner.waitPayment(o.ID, "completed")

	for _, path := range []string{"/orders/" + o.ID, "/orders/" + o.ID + "/timeline", "/orders/" + o.ID + "/events", "/payments/" + p.ID} {
		refused(t, other.do("GET", path, nil), http.StatusNotFound)
		refused(t, anonymous(t).do("GET", path, nil), http.StatusUnauthorized)
	}
	refused(t, other.do("POST", "/orders/"+o.ID+"/cancel", nil), http.StatusNotFound)
	require.Empty(t, other.payments(o.ID))
	require.Equal(t, "confirmed", owner.order(o.ID).Status)
	require.Equal(t, o.ID, admin(t).order(o.ID).ID, "an Admin reads any")
}

func TestTotalsComeFromTheMenuAndOwnersFromTheToken(t *testing.T) {
	t.Parallel()
	c, me := user(t, 0)
	r := kitchen(t)
	o := c.place(visa)
	require.Equal(t, 2*r.item(t, true).Price, o.Total)
	require.Equal(t, me.ID, o.CustomerID)
	for _, field := range []string{"total", "customer_id", "status"} {
		b := basket(t, r, visa)
		b[field] = "1"
		p := refused(t, c.do("POST", "/orders", b), http.StatusBadRequest)
		require.Equal(t, "/"+field, p.Errors[0].Pointer)
	}
}

func TestRolesComeFromAnAdminOnly(t *testing.T) {
	t.Parallel()
	c, a := newUser(t)
	require.Equal(t, "Customer", a.Role)
	p := refused(t, anonymous(t).do("POST", "/auth/register", map[string]any{"email": "x@example.com", "password": password, "name": "X", "role": "Admin"}), http.StatusBadRequest)
	require.Equal(t, "/role", p.Errors[0].Pointer)
	refused(t, c.do("GET", "/admin/orders", nil), http.StatusForbidden)
	refused(t, c.do("PUT", "/admin/users/"+a.ID+"/role", map[string]any{"role": "Admin"}), http.StatusForbidden)

	require.Equal(t, http.StatusOK, admin(t).do("PUT", "/admin/users/"+a.ID+"/role", map[string]any{"role": "Admin"}).Status)
	refused(t, c.do("GET", "/admin/orders", nil), http.StatusForbidden)
	c.token = login(t, a.Email, password).Access
	require.Equal(t, http.StatusOK, c.do("GET", "/admin/orders", nil).Status, "the role holds from the next token on")
	require.Equal(t, http.StatusOK, admin(t).do("PUT", "/admin/users/"+a.ID+"/role", map[string]any{"role": "Customer"}).Status)
}

func TestADuplicateUserIsAConflict(t *testing.T) {
	t.Parallel()
	_, a := newUser(t)
	p := refused(t, anonymous(t).do("POST", "/auth/register", map[string]any{"email": strings.ToUpper(a.Email), "password": password, "name": "Again"}), http.StatusConflict)
	require.Equal(t, "/problems/conflict", p.Type)
}

func TestRefreshTokensRotateAndReuseEndsTheFamily(t *testing.T) {
	t.Parallel()
	_, a := newUser(t)
	first := a.Refresh
	second := decode[tokens](t, anonymous(t).do("POST", "/auth/refresh", map[string]any{"refresh_token": first}), http.StatusOK)
	require.NotEqual(t, first, second.Refresh)
	eventually(t, "the reuse to be outside the grace", func() string {
		got := anonymous(t).do("POST", "/auth/refresh", map[string]any{"refresh_token": first})
		if got.Status == http.StatusUnauthorized {
			return ""
		}
		return string(got.Body)
	})
	refused(t, anonymous(t).do("POST", "/auth/refresh", map[string]any{"refresh_token": second.Refresh}), http.StatusUnauthorized)
}

func TestWrongLoginsLookTheSame(t *testing.T) {
	t.Parallel()
	_, a := newUser(t)
	wrong := refused(t, anonymous(t).do("POST", "/auth/login", map[string]any{"email": a.Email, "password": "not this one"}), http.StatusUnauthorized)
	unknown := refused(t, anonymous(t).do("POST", "/auth/login", map[string]any{"email": "nobody-" + a.Email, "password": "not this one"}), http.StatusUnauthorized)
	require.Equal(t, wrong.Detail, unknown.Detail)
}

func TestTokensAndKeysAreWhatTheyShouldBe(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 0)
	keys := decode[struct{ Keys []map[string]any }](t, anonymous(t).do("GET", "/.well-known/jwks.json", nil), http.StatusOK)
	require.NotEmpty(t, keys.Keys)
	for _, k := range keys.Keys {
		require.Equal(t, "RS256", k["alg"])
		require.NotEmpty(t, k["kid"])
		require.NotContains(t, k, "d", "no private part")
	}
	require.Equal(t, http.StatusOK, c.do("GET", "/auth/me", nil).Status)
	bad := anonymous(t)
	bad.token = c.token[:len(c.token)-2] + "xx"
	a := bad.do("GET", "/auth/me", nil)
	refused(t, a, http.StatusUnauthorized)
	require.Contains(t, a.Header.Get("WWW-Authenticate"), "Bearer")
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 0)
	refused(t, anonymous(t).do("GET", "/nowhere", nil), http.StatusNotFound)
	refused(t, c.do("GET", "/orders/x/y/z", nil), http.StatusNotFound)
	a := c.do("DELETE", "/orders", nil)
	refused(t, a, http.StatusMethodNotAllowed)
	require.Equal(t, "GET, HEAD, POST", a.Header.Get("Allow"))
	for _, path := range []string{"/orders/../admin/orders", "/orders//x", "/orders/%2e%2e/admin", "/orders%2fx", "/orders/;x"} {
		a := rawPath(t, c, path)
		require.GreaterOrEqual(t, a.Status, 400, path)
		require.Less(t, a.Status, 500, path)
	}
}

// rawPath sends a path as it stands, which net/url would tidy.
func rawPath(t testing.TB, c *client, path string) answer {
	t.Helper()
	req := c.request(t.Context(), http.MethodGet, "/", nil)
	req.URL.Opaque = "//" + req.URL.Host + path
	resp, err := c.http.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	return answer{Status: resp.StatusCode, Header: resp.Header}
}

func TestLimitedAnswersSaySo(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 0)
	a := c.do("GET", "/orders", nil)
	require.NotEmpty(t, a.Header.Get("RateLimit"))
	require.NotEmpty(t, a.Header.Get("RateLimit-Policy"))
}
