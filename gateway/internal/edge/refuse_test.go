package edge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

const someID = "0190b0a0-0000-7000-8000-000000000001"

func fill(pattern string) string { return strings.ReplaceAll(pattern, "{id}", someID) }

func TestEveryRouteReachesItsService(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for _, route := range Routes(0) {
		if route.Service == Self {
			continue
		}
		before := len(r.requests())
		a := r.do(route.Method, fill(route.Pattern)+"?limit=5", r.admin, nil)
		require.Equal(t, http.StatusOK, a.StatusCode, "%s %s: %s", route.Method, route.Pattern, a.body)
		seen := r.requests()
		require.Len(t, seen, before+1)
		require.Equal(t, route.Method, seen[before].Method)
		require.Equal(t, fill(route.Pattern)+"?limit=5", seen[before].RequestURI)
		require.Equal(t, "Bearer "+r.admin, seen[before].Header.Get("Authorization"))
	}
}

func TestWhoMayUseARoute(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	public := map[string]bool{
		"/auth/register": true, "/auth/login": true, "/auth/refresh": true, "/auth/logout": true,
		"/.well-known/jwks.json": true, "/openapi.json": true, "/restaurants": true, "/restaurants/{id}": true,
	}
	for _, route := range Routes(0) {
		name := route.Method + " " + route.Pattern
		anonymous := r.do(route.Method, fill(route.Pattern), "", nil)
		if public[route.Pattern] {
			require.Equal(t, http.StatusOK, anonymous.StatusCode, name)
			continue
		}
		require.Equal(t, http.StatusUnauthorized, anonymous.StatusCode, name)
		require.Equal(t, "Bearer", anonymous.Header.Get("WWW-Authenticate"))
		require.Equal(t, "/problems/unauthenticated", anonymous.problem(t).Type)
		customer := r.do(route.Method, fill(route.Pattern), r.customer, nil)
		if strings.HasPrefix(route.Pattern, "/admin/") {
			require.Equal(t, http.StatusForbidden, customer.StatusCode, name)
			require.Equal(t, "/problems/forbidden", customer.problem(t).Type)
		} else {
			require.Equal(t, http.StatusOK, customer.StatusCode, name)
		}
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	expired := r.issuer.Claims(uuid.New(), authn.Admin)
	expired.Expires = expired.IssuedAt - 3600
	for name, fields := range map[string][]string{
		"garbage":       {"Authorization", "Bearer x.y.z"},
		"other scheme":  {"Authorization", "Basic " + r.admin},
		"no token":      {"Authorization", "Bearer"},
		"expired":       {"Authorization", "Bearer " + r.issuer.Mint(expired)},
		"truncated":     {"Authorization", "Bearer " + r.admin[:len(r.admin)-2]},
		"padded":        {"Authorization", "Bearer " + r.admin + "="},
		"two fields":    {"Authorization", "Bearer " + r.admin, "Authorization", "Bearer " + r.admin},
		"in the cookie": {"Cookie", "access_token=" + r.admin},
		"own field":     {"X-Access-Token", r.admin},
	} {
		a := r.get("/admin/users", "", fields...)
		require.Equal(t, http.StatusUnauthorized, a.StatusCode, name)
		require.Contains(t, a.Header.Get("WWW-Authenticate"), "Bearer", name)
		a.problem(t)
	}
	require.Equal(t, http.StatusUnauthorized, r.get("/orders?access_token="+r.customer, "").StatusCode, "in the query")
	require.Empty(t, r.requests())
	require.Equal(t, http.StatusOK, r.get("/orders", "", "Authorization", "bEARER "+r.customer).StatusCode, "the scheme in any case")
}

// Each request breaks the rule it is named after and every later one: the
// earliest refusal must be the answer.
func TestTheOrderOfRefusals(t *testing.T) {
	t.Parallel()
	r := setup(t, options{
		rates: map[string]string{"ip": "1000/s", "user": "1/h"},
		now:   newClock().now,
	})
	spent := r.issuer.Token(uuid.Must(uuid.NewV7()), authn.Admin)
	for range 2 {
		require.Equal(t, http.StatusOK, r.get("/admin/users", spent).StatusCode)
	}
	big := "Content-Length: 2000000\r\nContent-Encoding: gzip\r\n"
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"framing before the path", "POST /orders/../x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"form of the path before the prefix", "GET /nothing//here HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"form of the path before the token", "GET /orders/%2e%2e/admin HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"unknown prefix before the token", "DELETE /nothing HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\n" + big + "\r\n", 404},
		{"token before the role, the method and the path", "DELETE /admin/nothing HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\n" + big + "\r\n", 401},
		{"role before the method and the path", "DELETE /admin/nothing HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + r.customer + "\r\n" + big + "\r\n", 403},
		{"user limit before the method", "DELETE /admin/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + spent + "\r\n" + big + "\r\n", 429},
		{"user limit before the unknown path", "GET /admin/nothing HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + spent + "\r\n" + big + "\r\n", 429},
		{"method before the body", "PATCH /auth/login HTTP/1.1\r\nHost: x\r\n" + big + "\r\n", 405},
		{"unknown path before the body", "POST /auth/nothing HTTP/1.1\r\nHost: x\r\n" + big + "\r\n", 404},
		{"length before the encoding", "POST /auth/login HTTP/1.1\r\nHost: x\r\n" + big + "\r\n", 413},
		{"encoding before the form", "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Encoding: gzip\r\n\r\nx", 415},
	} {
		a := r.dial().send(c.request).answer("GET")
		require.Equal(t, c.status, a.StatusCode, "%s: %s", c.name, a.body)
		a.problem(t)
	}
	require.Len(t, r.requests(), 2, "no refused request reaches a service")
}

func TestTheAddressLimitComesBeforeThePrefix(t *testing.T) {
	t.Parallel()
	r := setup(t, options{rates: map[string]string{"ip": "1/h"}, now: newClock().now})
	require.Equal(t, 404, r.get("/nothing", "").StatusCode)
	require.Equal(t, 404, r.get("/nothing", "").StatusCode)
	require.Equal(t, 429, r.get("/nothing", "").StatusCode)
	require.Equal(t, 400, r.get("/nothing//", "").StatusCode, "the form of the path comes before it")
	require.Equal(t, 429, r.get("/orders", "bad").StatusCode, "the token after it")
}

func TestMethods(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for _, c := range []struct{ method, path, token, allow string }{
		{"PATCH", "/orders", r.customer, "GET, HEAD, POST"},
		{"DELETE", "/orders/" + someID, r.customer, "GET, HEAD"},
		{"GET", "/auth/login", "", "POST"},
		{"HEAD", "/auth/login", "", "POST"},
		{"POST", "/openapi.json", "", "GET, HEAD"},
		{"HEAD", "/notifications/stream", r.customer, "GET"},
		{"GET", "/auth/sessions/" + someID, r.customer, "DELETE"},
		{"OPTIONS", "/restaurants", "", "GET, HEAD"},
		{"TRACE", "/restaurants", "", "GET, HEAD"},
		{"TRACE", "/orders", "", "GET, HEAD, POST"},
		{"PROPFIND", "/restaurants", "", "GET, HEAD"},
		{"get", "/restaurants", "", "GET, HEAD"},
	} {
		a := r.do(c.method, c.path, c.token, nil)
		require.Equal(t, http.StatusMethodNotAllowed, a.StatusCode, "%s %s", c.method, c.path)
		require.Equal(t, c.allow, a.Header.Get("Allow"), "%s %s", c.method, c.path)
	}
	require.Equal(t, 401, r.do("PATCH", "/orders", "", nil).StatusCode)
	for request, status := range map[string]int{
		"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n": 400,
		"CONNECT /orders HTTP/1.1\r\nHost: x\r\n\r\n":                       405,
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n":                             400,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                  400,
		"GET /restaurants HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n":          400,
		"GET /restaurants HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n": 400,
	} {
		a := r.dial().send(request).answer("GET")
		require.Equal(t, status, a.StatusCode, request)
	}
	require.Empty(t, r.requests())
}

func TestHeadIsAnsweredFromGet(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	a := r.do(http.MethodHead, "/restaurants", "", nil)
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.Empty(t, a.body)
	require.Equal(t, http.MethodGet, r.requests()[0].Method)
	require.Equal(t, http.StatusOK, r.do(http.MethodHead, "/openapi.json", "", nil).StatusCode)
}

func TestUnknownPaths(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for _, path := range []string{"/", "/nothing", "/ordersx", "/Orders", "/ADMIN/users", "/auth", "/auth/", "/auth/nothing", "/restaurants/", "/restaurants/x/y", "/metrics", "/readyz", "/debug/pprof/", "/.well-known/", "/openapi.json/"} {
		a := r.get(path, "")
		require.Equal(t, http.StatusNotFound, a.StatusCode, path)
		require.Equal(t, "/problems/not_found", a.problem(t).Type)
	}
	for _, path := range []string{"/orders/", "/orders/x/y/z", "/payments/x/y", "/notifications/x", "/auth/me/x", "/auth/sessions/x/y"} {
		require.Equal(t, http.StatusUnauthorized, r.get(path, "").StatusCode, path)
		require.Equal(t, http.StatusNotFound, r.get(path, r.customer).StatusCode, path)
	}
	for _, path := range []string{"/admin", "/admin/", "/admin/nothing"} {
		require.Equal(t, http.StatusUnauthorized, r.get(path, "").StatusCode, path)
		require.Equal(t, http.StatusForbidden, r.get(path, r.customer).StatusCode, path)
		require.Equal(t, http.StatusNotFound, r.get(path, r.admin).StatusCode, path)
	}
	require.Empty(t, r.requests())
}

func TestPathTricksAreRefused(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	tricks := []string{
		"//orders", "/orders//", "/orders//x", "//", "/restaurants/../admin/users", "/restaurants/..", "/restaurants/.", "/./orders", "/..",
		"/restaurants/%2e%2e/admin/users", "/restaurants/%2E%2e/admin/users", "/restaurants/.%2e/admin/users", "/restaurants/%2e/x",
		"/restaurants%2f..%2fadmin", "/restaurants%2F", "/restaurants/%5c..%5cadmin", "/restaurants/%5C", `/restaurants\admin`, `/restaurants/..\admin`,
		"/restaurants;x=1", "/restaurants/..;/admin/users", "/restaurants/%3b", "/restaurants/%00", "/restaurants%00", "/restaurants/%0a", "/restaurants/%0d%0aX:y", "/restaurants/%7f",
		"/restaurants/%252e%252e/admin", "/restaurants/%25", "/restaurants/%2", "/restaurants/%zz", "/restaurants/%", "/restaurants/%u002e",
		"/restaurants#x", "/restaurants/\xc0\xae\xc0\xae/admin", "/restaurants/caf\xc3\xa9", `/restaurants/"`, "/restaurants/<x>", "/restaurants/{id}", "/restaurants/a|b", "/restaurants/^", "/restaurants/`",
		"/restaurants?q=%zz", "/restaurants?q=%", "/restaurants?a=1;b=2", "/restaurants?q=%00", "/restaurants?q=#x", "/restaurants?q=\xff",
		"http://x/restaurants/../admin/users", "http://x//restaurants", "http://x", "http://x?y", "ftp://x/restaurants", "restaurants", "*", "",
	}
	for _, trick := range tricks {
		for _, token := range []string{"", r.admin} {
			a := r.dial().send("GET " + trick + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\n\r\n").answer("GET")
			require.Equal(t, http.StatusBadRequest, a.StatusCode, "%q: %s", trick, a.body)
			require.Equal(t, "/problems/malformed", a.problem(t).Type, trick)
		}
	}
	require.Empty(t, r.requests(), "nothing of it reaches a service")
}

func TestPathsAreNormalisedOnceForRoutingAndForwarding(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for sent, forwarded := range map[string]string{
		"/%72estaurants":                   "/restaurants",
		"/restaurants/%61%7E%2D%2e%5F":     "/restaurants/a~-._",
		"/restaurants/a%20b":               "/restaurants/a%20b",
		"/restaurants/caf%c3%a9":           "/restaurants/caf%C3%A9",
		"/restaurants/a%3f":                "/restaurants/a%3F",
		"/restaurants/...":                 "/restaurants/...",
		"/restaurants?limit=1&cursor=a%2F": "/restaurants?limit=1&cursor=a%2F",
		"/restaurants?a=//../x":            "/restaurants?a=//../x",
		"http://anything/restaurants?a":    "/restaurants?a",
		"HTTPS://x:1/restaurants/1":        "/restaurants/1",
	} {
		before := len(r.requests())
		a := r.dial().send("GET " + sent + " HTTP/1.1\r\nHost: x\r\n\r\n").answer("GET")
		require.Equal(t, http.StatusOK, a.StatusCode, "%s: %s", sent, a.body)
		require.Equal(t, forwarded, r.requests()[before].RequestURI, sent)
	}
	// An encoded letter does not get around the rule for the decoded path.
	require.Equal(t, http.StatusUnauthorized, r.get("/%61dmin/users", "").StatusCode)
	require.Equal(t, http.StatusForbidden, r.get("/%61dmin/users", r.customer).StatusCode)
}

func TestMetricsAndLogsNameThePatternNeverThePath(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	r.get("/restaurants/"+someID, "")
	r.get("/restaurants/%2fsecret", "")
	for i := range 20 {
		r.get(fmt.Sprintf("/random-%d", i), "")
		r.do(fmt.Sprintf("METHOD%d", i), "/restaurants", "", nil)
	}
	require.Eventually(t, func() bool { return strings.Count(r.logs.String(), `"msg":"request"`) == 42 }, patience, tick)
	families, err := r.registry.Gather()
	require.NoError(t, err)
	routes := map[string]bool{}
	for _, f := range families {
		if f.GetName() != "tiffin_http_request_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "route" {
					routes[l.GetValue()] = true
				}
			}
		}
	}
	require.Equal(t, map[string]bool{"/restaurants": true, "/restaurants/{id}": true, "unmatched": true}, routes)
}
