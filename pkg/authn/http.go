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

// BearerToken returns the token of a request's Authorization field (RFC 6750
// §2.1), "" when there is none. Two such fields are refused: two readers might
// pick different ones.
func BearerToken(h http.Header) (string, error) {
	switch values := h["Authorization"]; len(values) {
	case 0:
		return "", nil
	case 1:
		scheme, token, _ := strings.Cut(values[0], " ")
		if !strings.EqualFold(scheme, "bearer") || token == "" {
			return "", invalid(errors.New("not a Bearer credential"))
		}
		return strings.TrimLeft(token, " "), nil
	default:
		return "", invalid(errors.New("more than one Authorization field"))
	}
}

// Authenticate verifies the token of a request. Without one the error is
// Unauthenticated too.
func (v *Verifier) Authenticate(r *http.Request) (Principal, error) {
	token, err := BearerToken(r.Header)
	if err != nil {
		return Principal{}, err
	}
	if token == "" {
		return Principal{}, errs.New(errs.Unauthenticated, "send an access token as Authorization: Bearer")
	}
	return v.Verify(r.Context(), token)
}

// WriteProblem answers with err, and for Unauthenticated with the challenge
// that RFC 9110 §11.6.1 asks for; it names an error only when a token was sent
// (RFC 6750 §3.1).
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	if errs.KindOf(err) == errs.Unauthenticated {
		challenge := "Bearer"
		if len(r.Header["Authorization"]) > 0 {
			challenge = `Bearer error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	httpx.WriteProblem(w, r, err)
}

// Require lets only requests with a valid token pass, their Principal in the
// context; others get a problem.
func (v *Verifier) Require(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := v.Authenticate(r)
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
