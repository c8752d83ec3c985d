package authn_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
)

func TestRequire(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	h := i.Verifier().Require(authn.RequireRole(authn.Admin)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(authn.From(r.Context()).UserID.String()))
	})))
	admin, customer := i.Token(user, authn.Admin), i.Token(user, authn.Customer)
	const sent = `Bearer error="invalid_token"`
	for name, c := range map[string]struct {
		authorization []string
		status        int
		challenge     string
	}{
		"admin":           {[]string{"Bearer " + admin}, 200, ""},
		"lower case":      {[]string{"bearer " + admin}, 200, ""},
		"upper case":      {[]string{"BEARER  " + admin}, 200, ""},
		"customer":        {[]string{"Bearer " + customer}, 403, ""},
		"nothing":         {nil, 401, "Bearer"},
		"empty":           {[]string{""}, 401, sent},
		"scheme only":     {[]string{"Bearer"}, 401, sent},
		"scheme, a space": {[]string{"Bearer "}, 401, sent},
		"token only":      {[]string{admin}, 401, sent},
		"basic":           {[]string{"Basic " + admin}, 401, sent},
		"tab":             {[]string{"Bearer\t" + admin}, 401, sent},
		"comma":           {[]string{"Bearer " + admin + ", Bearer " + admin}, 401, sent},
		"two fields":      {[]string{"Bearer " + admin, "Bearer " + admin}, 401, sent},
		"two, one bad":    {[]string{"Bearer " + admin, "x"}, 401, sent},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x", nil)
		if c.authorization != nil {
			r.Header["Authorization"] = c.authorization
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, c.status, w.Code, name)
		require.Equal(t, c.challenge, w.Header().Get("WWW-Authenticate"), name)
		if c.status == 200 {
			require.Equal(t, user.String(), w.Body.String(), name)
		} else {
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), name)
			require.NotContains(t, w.Body.String(), "jwt", name)
		}
	}
}

func TestTokenInQueryOrCookieIsIgnored(t *testing.T) {
	t.Parallel()
	i := authntest.New(t)
	token := i.Token(user, authn.Admin)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/x?access_token="+token, nil)
	r.AddCookie(&http.Cookie{Name: "access_token", Value: token})
	w := httptest.NewRecorder()
	i.Verifier().Require(http.NotFoundHandler()).ServeHTTP(w, r)
	require.Equal(t, http.StatusUnauthorized, w.Code)
}
