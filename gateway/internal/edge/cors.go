package edge

import (
	"net/http"
	"slices"
)

// allowedHeaders and exposedHeaders are what scripts of an allowed origin may
// send and read.
const (
	allowedHeaders = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-ID, traceparent, tracestate"
	exposedHeaders = "Location, X-Request-ID, Retry-After, RateLimit, RateLimit-Policy"
)

// cors says to browsers which origins may read answers. Credentials are Bearer
// tokens, never cookies, so Allow-Credentials is never sent.
type cors []string // origins; "*" for all; empty: closed

// announce marks an answer; it returns whether the request's origin is allowed.
func (c cors) announce(h http.Header, r *http.Request) bool {
	if len(c) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	all := slices.Contains(c, "*")
	if origin == "" || !all && !slices.Contains(c, origin) {
		return false
	}
	if all {
		origin = "*"
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", exposedHeaders)
	return true
}

// preflight tells whether the request is a browser's question before a request.
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

func answerPreflight(w http.ResponseWriter, allow string) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", allow)
	h.Set("Access-Control-Allow-Headers", allowedHeaders)
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}
