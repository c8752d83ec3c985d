package authntest

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

// RequireRefused sends a GET of url, a route for users that the issuer's tokens
// open, with every forged token and every odd way to send a good one: all must
// be answered 401, as a problem and with a challenge.
func (i *Issuer) RequireRefused(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	get := func(authorization ...string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		if authorization != nil {
			req.Header["Authorization"] = authorization
		}
		resp, err := client.Do(req)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	good := i.Token(uuid.Must(uuid.NewV7()), authn.Admin)
	require.NotEqual(t, http.StatusUnauthorized, get("Bearer "+good).StatusCode, "a good token opens it")

	attacks := map[string][]string{
		"no field": nil, "empty": {""}, "scheme only": {"Bearer"}, "token only": {good}, "Basic": {"Basic " + good}, "DPoP": {"DPoP " + good}, "Token": {"Token " + good},
		"comma": {"Bearer " + good + ", Bearer " + good}, "two fields": {"Bearer " + good, "Bearer " + good}, "two, the first empty": {"", "Bearer " + good},
		"two schemes": {"Basic eDp5", "Bearer " + good}, "quoted": {`Bearer "` + good + `"`}, "a parameter": {"Bearer " + good + " scope=x"}, "colon": {"Bearer: " + good},
		"tab": {"Bearer\t" + good}, "scheme twice": {"Bearer Bearer " + good}, "no space": {"Bearer" + good},
	}
	for name, token := range i.Forged() {
		if strings.TrimSpace(token) != token || strings.ContainsAny(token, "\r\n") {
			continue // a field cannot carry it
		}
		attacks[name] = []string{"Bearer " + token}
	}
	for name, authorization := range attacks {
		resp := get(authorization...)
		require.Equal(t, http.StatusUnauthorized, resp.StatusCode, name)
		require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"), name)
		require.True(t, strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer"), name)
	}
}
