package api_test

import (
	"strings"
	"testing"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
)

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.issuer.RequireRefused(t, w.http+"/orders")
}

func TestNoPathLeadsAroundARole(t *testing.T) {
	t.Parallel()
	w := setup(t)
	addr := strings.TrimPrefix(w.http, "http://")
	httpxtest.RequireNoWayAround(t, addr, w.issuer.Token(asha, authn.Customer), "/restaurants", "/admin/orders")
	httpxtest.RequireNoWayAround(t, addr, w.issuer.Token(asha, authn.Customer), "/orders", "/admin/restaurants")
	httpxtest.RequireNoWayAround(t, addr, "", "/restaurants", "/orders")
}
