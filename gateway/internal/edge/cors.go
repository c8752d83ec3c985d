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
func (c cors) announce(x *exchange) bool {
	if len(c) == 0 {
		return false
	}
	x.set("Vary", "Origin")
	origin := x.req.Get("origin")
	all := slices.Contains(c, "*")
	if origin == "" || !all && !slices.Contains(c, origin) {
		return false
	}
	if all {
		origin = "*"
	}
	x.set("Access-Control-Allow-Origin", origin)
	x.set("Access-Control-Expose-Headers", exposedHeaders)
	return true
}

// preflight tells whether the request is a browser's question before a request.
func (x *exchange) preflight() bool {
	return x.req.Method == http.MethodOptions && x.req.Get("origin") != "" && x.req.Get("access-control-request-method") != ""
}

func (x *exchange) answerPreflight(allow string) {
	x.set("Access-Control-Allow-Methods", allow)
	x.set("Access-Control-Allow-Headers", allowedHeaders)
	x.set("Access-Control-Max-Age", "600")
	x.reply(http.StatusNoContent, nil)
}
