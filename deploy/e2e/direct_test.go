//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
)

var serverError = regexp.MustCompile(`HTTP/1\.\d (500|502|503|504) `)

// A service that is asked directly, past the gateway, takes no hidden request
// for one and lets no path lead around a role.
func TestServicesAskedDirectlyRefuseToo(t *testing.T) {
	t.Parallel()
	if !local(t) {
		return
	}
	c, _ := user(t, 0)
	for n, s := range []struct{ name, post, from, to, token string }{
		{"auth-service", "/auth/login", "/auth", "/admin/users", c.token},
		{"order-service", "/orders", "/restaurants", "/admin/orders", c.token},
		{"payment-service", "/payments", "/x", "/payments", ""},
		{"notification-service", "/notifications", "/x", "/notifications", ""},
	} {
		t.Run(s.name, func(t *testing.T) {
			addr := fmt.Sprintf("127.0.0.1:%d", 5001+n+target.platform.PortOffset)
			for name, raw := range httpxtest.Smuggling(s.post) {
				answer := httpxtest.Send(t, addr, raw)
				require.NotContains(t, answer, httpxtest.Smuggled, name)
				require.NotRegexp(t, serverError, answer, name)
			}
			httpxtest.RequireNoWayAround(t, addr, s.token, s.from, s.to)
		})
	}
}
