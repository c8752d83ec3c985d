package edge

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	r.issuer.RequireRefused(t, "http://"+r.addr+"/admin/users")
	require.Len(t, r.requests(), 1, "only the good token's request reached a service")
}

// What no HTTP client library sends.
func TestOddAuthorizationFieldsAreRefused(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	good := "Bearer " + r.admin
	for fields, status := range map[string]int{
		"authorization: " + good: 200, "AUTHORIZATION:" + good: 200, "Authorization: \t" + good + " \t": 200,
		"Authorization: " + good + "\r\nauthorization: " + good:                                    401,
		"authorization: Bearer x\r\nAUTHORIZATION: " + good:                                        401,
		"Authorization:\r\nAuthorization: " + good:                                                 401,
		"Authorization: " + good + "\r\nX: y\r\nAuthorization: Basic x":                            401,
		"Authorization: Bearer " + r.admin[:40] + "\r\n " + r.admin[40:]:                           400,
		"Authorization:\r\n " + good:                                                               400,
		"Authorization : " + good:                                                                  400,
		"Authorization\t: " + good:                                                                 400,
		"Authorization: " + good + "\x00":                                                          400,
		"Authorization: Bearer\x0b" + r.admin:                                                      400,
		"Authorization_: " + good:                                                                  401,
		"Proxy-Authorization: " + good:                                                             401,
		"X-Authorization: " + good:                                                                 401,
		"Authorization: Bearer " + r.admin + "\r\nConnection: Authorization\r\nX-Authorization: x": 200,
	} {
		before := len(r.requests())
		a := r.dial().send("GET /admin/users HTTP/1.1\r\nHost: x\r\n" + fields + "\r\n\r\n").answer("GET")
		require.Equal(t, status, a.StatusCode, "%q: %s", fields, a.body)
		seen := r.requests()[before:]
		if status != http.StatusOK {
			require.Empty(t, seen, "%q", fields)
			continue
		}
		require.Len(t, seen, 1)
		require.Equal(t, []string{good}, seen[0].Header.Values("Authorization"), "%q", fields)
	}
}
