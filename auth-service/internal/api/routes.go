// Package api is the HTTP edge of the auth-service: it decodes, calls package
// auth and encodes.
package api

import (
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

type api struct {
	auth    *auth.Service
	keys    *auth.Keys
	proxies []netip.Prefix
}

// Routes returns all routes of the service. proxies are the peers that are
// believed when they say, in X-Forwarded-For, who their client is.
func Routes(svc *auth.Service, keys *auth.Keys, v *authn.Verifier, proxies []netip.Prefix, log *slog.Logger, reg prometheus.Registerer) http.Handler {
	a := &api{svc, keys, proxies}
	user := v.Require
	admin := func(h http.Handler) http.Handler { return v.Require(authn.RequireRole(authn.Admin)(h)) }

	m := httpx.NewRouter(log, reg)
	m.Handle("/auth/register", methods{http.MethodPost: a.register})
	m.Handle("/auth/login", methods{http.MethodPost: a.login})
	m.Handle("/auth/refresh", methods{http.MethodPost: a.refresh})
	m.Handle("/auth/logout", methods{http.MethodPost: a.logout})
	m.Handle("/auth/me", user(methods{http.MethodGet: a.me}))
	m.Handle("/auth/password", user(methods{http.MethodPost: a.password}))
	m.Handle("/auth/sessions", user(methods{http.MethodGet: a.sessions}))
	m.Handle("/auth/sessions/{id}", user(methods{http.MethodDelete: a.endSession}))
	m.Handle("/admin/users", admin(methods{http.MethodGet: a.users}))
	m.Handle("/admin/users/{id}/role", admin(methods{http.MethodPut: a.setRole}))
	for _, prefix := range []string{"/auth/me", "/auth/password", "/auth/sessions"} {
		m.Handle(prefix+"/*", user(methods(nil)))
	}
	m.Handle("/admin/*", admin(methods(nil)))
	m.Handle("/.well-known/jwks.json", methods{http.MethodGet: a.jwks})
	return m
}

// methods answers the methods of one path. It stands behind the checks of token
// and role, so that who may not come in does not learn what is there.
type methods map[string]httpx.HandlerFunc

// ServeHTTP answers, 405 with Allow for other methods, 404 when there are none.
func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Tokens and what an account holds are for nobody's cache.
	w.Header().Set("Cache-Control", "no-store")
	h, ok := m[r.Method]
	var err error
	switch {
	case ok:
		err = h(w, r)
	case len(m) == 0:
		err = errs.New(errs.NotFound, "there is nothing at this path")
	default:
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(m)), ", "))
		err = errs.New(errs.MethodNotAllowed, "%.16q is not a method of this path", r.Method)
	}
	if err != nil {
		authn.WriteProblem(w, r, err)
	}
}
