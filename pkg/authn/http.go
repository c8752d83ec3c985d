package authn

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// BearerToken returns the token of a request's Authorization fields (RFC 6750
// §2.1), "" when there are none. Two of them are refused: two readers might pick
// different ones.
func BearerToken(fields []string) (string, error) {
	switch len(fields) {
	case 0:
		return "", nil
	case 1:
		scheme, token, _ := strings.Cut(fields[0], " ")
		if !strings.EqualFold(scheme, "bearer") || token == "" {
			return "", invalid(errors.New("not a Bearer credential"))
		}
		return strings.TrimLeft(token, " "), nil
	default:
		return "", invalid(errors.New("more than one Authorization field"))
	}
}

// Authenticate verifies the token of a request's Authorization fields. Without
// one the error is Unauthenticated too.
func (v *Verifier) Authenticate(ctx context.Context, fields []string) (Principal, error) {
	token, err := BearerToken(fields)
	if err != nil {
		return Principal{}, err
	}
	if token == "" {
		return Principal{}, errs.New(errs.Unauthenticated, "send an access token as Authorization: Bearer")
	}
	return v.Verify(ctx, token)
}

// Challenge returns the WWW-Authenticate field of an answer to err, "" for
// errors that are not Unauthenticated (RFC 9110 §11.6.1). It names an error only
// when a token was sent (RFC 6750 §3.1).
func Challenge(err error, sent bool) string {
	switch {
	case errs.KindOf(err) != errs.Unauthenticated:
		return ""
	case sent:
		return `Bearer error="invalid_token"`
	default:
		return "Bearer"
	}
}

// WriteProblem answers with err, and with a challenge where one belongs.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	if c := Challenge(err, len(r.Header["Authorization"]) > 0); c != "" {
		w.Header().Set("WWW-Authenticate", c)
	}
	httpx.WriteProblem(w, r, err)
}

// Require lets only requests with a valid token pass, their Principal in the
// context; others get a problem.
func (v *Verifier) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := v.Authenticate(r.Context(), r.Header["Authorization"])
		if err != nil {
			WriteProblem(w, r, err)
			return
		}
		httpx.Note(r.Context(), slog.String("user_id", p.UserID.String()))
		next.ServeHTTP(w, r.WithContext(With(r.Context(), p)))
	})
}

// RequireRole lets only principals of one role pass. It stands after Require.
func RequireRole(role Role) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if From(r.Context()).Role != role {
				httpx.WriteProblem(w, r, errs.New(errs.Forbidden, "this needs the role %s", role))
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

type principalKey struct{}

// With returns a context that carries p.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// From returns the principal that Require put into the context, else the zero
// value, which has no role and owns nothing.
func From(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
