package edge

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestClaimsAboutTheClientNeverReachAService(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	var head strings.Builder
	sent := []string{
		"X-User-ID", "x-user-role", "X-USER-EMAIL", "X-Users", "X-User", "X-Role", "X-Roles", "Role", "Roles", "User-Id", "X-Auth-User", "X-Authenticated-Userid",
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Forwarded-User", "X-Forwarded", "X-Real-IP", "True-Client-IP", "X-Client-IP", "Client-IP",
		"X-Cluster-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "X-Envoy-External-Address", "X-Original-URL", "X-Rewrite-URL", "X-Original-Forwarded-For",
		"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Remote-User", "Remote-User", "X-Principal", "X-Admin", "X-Is-Admin", "Proxy",
		"X_User_Id", "X-User_Role", "X_Forwarded_For", "Authorization_", "X-Idempotency-Key",
		"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Trailer",
	}
	for _, name := range sent {
		head.WriteString(name + ": 6.6.6.6\r\n")
	}
	a := r.dial().send("GET /orders HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer " + r.customer + "\r\n" +
		"Accept: application/json\r\nAccept-Language: de\r\nX-Custom: kept\r\nUser-Agent: test/1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n" +
		head.String() + "\r\n").answer("GET")
	require.Equal(t, http.StatusOK, a.StatusCode, a.body)
	got := r.requests()[0]
	require.Equal(t, http.Header{
		"Authorization":   {"Bearer " + r.customer},
		"Accept":          {"application/json"},
		"Accept-Language": {"de"},
		"X-Custom":        {"kept"},
		"User-Agent":      {"test/1"},
		"Traceparent":     {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
		"X-Forwarded-For": {"127.0.0.1"},
		"X-Request-Id":    {a.Header.Get("X-Request-ID")},
	}, got.Header)
	require.NotContains(t, got.Host, "evil.example")
}

func TestConnectionCannotStripWhatServicesNeed(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	for _, value := range []string{
		"Authorization, X-Request-ID, Idempotency-Key, Content-Type, traceparent, X-Forwarded-For, X-Hop",
		"close, authorization, x-request-id, IDEMPOTENCY-KEY, content-type, Traceparent, x-forwarded-for, x-hop",
		"keep-alive,,authorization\r\nConnection: X-Request-ID\r\nConnection:  X-Hop ",
	} {
		before := len(r.requests())
		a := r.dial().send("POST /orders HTTP/1.1\r\nHost: x\r\nConnection: " + value + "\r\nAuthorization: Bearer " + r.customer +
			"\r\nX-Request-ID: mine\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\ntraceparent: t\r\nX-Hop: y\r\nContent-Length: 2\r\n\r\n{}").answer("POST")
		require.Equal(t, http.StatusOK, a.StatusCode, a.body)
		h := r.requests()[before].Header
		require.Equal(t, "Bearer "+r.customer, h.Get("Authorization"), value)
		require.Equal(t, "mine", h.Get("X-Request-ID"), value)
		require.Equal(t, "k", h.Get("Idempotency-Key"), value)
		require.Equal(t, "application/json", h.Get("Content-Type"), value)
		require.Equal(t, "t", h.Get("Traceparent"), value)
		require.Equal(t, "127.0.0.1", h.Get("X-Forwarded-For"), value)
		require.Empty(t, h.Get("X-Hop"), value)
		require.Empty(t, h.Get("Connection"), value)
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	long := strings.Repeat("~", 200)
	for _, id := range []string{"a", "my-id_1.2:3/4", long, "!"} {
		before := len(r.requests())
		a := r.get("/restaurants", "", "X-Request-ID", id)
		require.Equal(t, []string{id}, a.Header.Values("X-Request-ID"))
		require.Equal(t, []string{id}, r.requests()[before].Header.Values("X-Request-ID"))
	}
	for _, field := range []string{"X-Request-ID: " + long + "x", "X-Request-ID: a b", "X-Request-ID: caf\xc3\xa9", "X-Request-ID:", "X-Request-ID: a\r\nX-Request-ID: b", "X-Other: a"} {
		before := len(r.requests())
		a := r.dial().send("GET /restaurants HTTP/1.1\r\nHost: x\r\n" + field + "\r\n\r\n").answer("GET")
		id := a.Header.Values("X-Request-ID")
		require.Len(t, id, 1)
		_, err := uuid.Parse(id[0])
		require.NoError(t, err, field)
		require.Equal(t, id, r.requests()[before].Header.Values("X-Request-ID"))
	}
	a := r.get("/orders", "", "X-Request-ID", "mine")
	require.Equal(t, "mine", a.problem(t).RequestID)
}

func TestAServiceCannotSetWhatIsTheGateways(t *testing.T) {
	t.Parallel()
	r := setup(t, options{
		rates: map[string]string{"ip": "100/s"},
		service: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("X-Request-ID", "theirs")
			h.Set("X-Content-Type-Options", "sniff")
			h.Set("RateLimit", "theirs")
			h.Set("RateLimit-Policy", "theirs")
			h.Set("Access-Control-Allow-Origin", "*")
			h.Set("Access-Control-Allow-Credentials", "true")
			h.Set("Server", "theirs")
			h.Set("Connection", "X-Hop")
			h.Set("X-Hop", "y")
			h.Set("Location", "/orders/1")
			h.Set("Retry-After", "7")
			h.Set("Cache-Control", "public, max-age=300")
			w.WriteHeader(http.StatusCreated)
		}),
	})
	a := r.get("/restaurants", "", "X-Request-ID", "mine")
	require.Equal(t, http.StatusCreated, a.StatusCode)
	for name, want := range map[string][]string{
		"X-Request-ID": {"mine"}, "X-Content-Type-Options": {"nosniff"}, "Access-Control-Allow-Origin": nil, "Access-Control-Allow-Credentials": nil,
		"Server": nil, "X-Hop": nil, "Location": {"/orders/1"}, "Retry-After": {"7"}, "Cache-Control": {"public, max-age=300"},
	} {
		require.Equal(t, want, a.Header.Values(name), name)
	}
	require.Len(t, a.Header.Values("RateLimit"), 1)
	require.Contains(t, a.Header.Get("RateLimit"), `"ip";r=`)
	require.Equal(t, `"ip";q=200;w=2`, a.Header.Get("RateLimit-Policy"))
	// Tokens are never kept, keys may be.
	require.Equal(t, "no-store", r.do("POST", "/auth/login", "", nil).Header.Get("Cache-Control"))
	require.Equal(t, "no-store", r.do("POST", "/auth/refresh", "", nil).Header.Get("Cache-Control"))
	require.Equal(t, "public, max-age=300", r.get("/.well-known/jwks.json", "").Header.Get("Cache-Control"))
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	trusting := setup(t, options{proxies: []string{"127.0.0.0/8", "10.0.0.0/8", "fd00::/8"}})
	for _, c := range []struct{ name, sent, want string }{
		{"none", "", "127.0.0.1"},
		{"one", "X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"},
		{"the last that is no proxy", "X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.7\r\n", "192.0.2.1"},
		{"several fields", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.0.0.7,10.1.1.1\r\n", "192.0.2.1"},
		{"only proxies", "X-Forwarded-For: 10.0.0.8, 10.0.0.7\r\n", "10.0.0.8"},
		{"nonsense ends it", "X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.7\r\n", "10.0.0.7"},
		{"an empty entry ends it", "X-Forwarded-For: 6.6.6.6,\r\n", "127.0.0.1"},
		{"IPv6", "X-Forwarded-For: 2001:db8::1, fd00::1\r\n", "2001:db8::1"},
		{"with a port", "X-Forwarded-For: 192.0.2.1:4711\r\n", "192.0.2.1"},
		{"mapped", "X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1"},
		{"others do not count", "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n", "127.0.0.1"},
	} {
		request := "GET /restaurants HTTP/1.1\r\nHost: x\r\n" + c.sent + "\r\n"
		before := len(trusting.requests())
		require.Equal(t, http.StatusOK, trusting.dial().send(request).answer("GET").StatusCode)
		require.Equal(t, []string{c.want}, trusting.requests()[before].Header.Values("X-Forwarded-For"), c.name)
		before = len(r.requests())
		require.Equal(t, http.StatusOK, r.dial().send(request).answer("GET").StatusCode)
		require.Equal(t, []string{"127.0.0.1"}, r.requests()[before].Header.Values("X-Forwarded-For"), "loopback is not trusted by default: %s", c.name)
	}
}
