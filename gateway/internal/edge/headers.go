package edge

import (
	"net/http"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

// claimPrefixes begin the names with which proxies tell a service what they
// know about a client. Whoever sends them from outside wants to be taken for a
// proxy, so they are removed; services trust the token only.
var claimPrefixes = []string{
	"x-user", "x-forwarded", "x-role", "x-auth", "x-original", "x-remote", "x-envoy", "x-principal", "x-subject",
	"x-session", "x-customer", "x-admin", "x-is-admin", "x-tenant", "x-tiffin", "x-jwt", "x-token", "x-claim", "x-account",
	"x-real-", "x-client-", "x-amzn-", "x-azure-", "x-goog-", "cf-",
}

// forService tells whether a field of a request is for services: neither a
// claim about the client, nor about this hop or the body, nor a name with an
// underscore, which some frameworks read as a hyphen.
func forService(name string) bool {
	switch name {
	case "forwarded", "true-client-ip", "client-ip", "x-cluster-client-ip", "fastly-client-ip", "remote-addr", "remote-user",
		"role", "roles", "user-id", "user-role", "x-rewrite-url", "x-http-method", "x-http-method-override", "x-method-override",
		"x-idempotency-key", // net/http would take it as leave to send a request twice
		"proxy",             // becomes HTTP_PROXY in CGI programs
		"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
		"proxy-connection", "proxy-authorization", "proxy-authenticate",
		"host", "content-length",
		"content-encoding", // always empty
		"expect",           // the gateway gives the 100 itself, when it passes the body on
		"x-request-id":     // checked, and set anew
		return false
	}
	if strings.IndexByte(name, '_') >= 0 {
		return false
	}
	if name[0] != 'x' && name[0] != 'c' {
		return true
	}
	for _, p := range claimPrefixes {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return true
}

// connectionList returns what a head's Connection fields list.
func connectionList(fields []http1.Field) string {
	var list string
	for _, f := range fields {
		if f.Name == "connection" {
			list += "," + f.Value
		}
	}
	return list
}

// forThisHop tells whether the client named a field in Connection. It cannot
// take away what is for the service.
func forThisHop(connection, name string) bool {
	switch name {
	case "authorization", "traceparent", "tracestate", "content-type", "idempotency-key", "last-event-id", "accept", "user-agent":
		return false
	}
	return http1.Listed(connection, name)
}

// ours tells whether only the gateway sets a field of an answer, or it is about
// this hop.
func ours(name string) bool {
	switch name {
	case "x-request-id", "x-content-type-options", "ratelimit", "ratelimit-policy", "server",
		"access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers",
		"access-control-allow-credentials", "access-control-expose-headers", "access-control-max-age",
		"connection", "keep-alive", "te", "transfer-encoding", "upgrade", "content-length",
		"proxy-connection", "proxy-authorization", "proxy-authenticate":
		return true
	}
	return false
}

// appendAnswerFields appends the fields of a service's answer that are for the
// client.
func appendAnswerFields(b []byte, p *http1.Response, noStore bool) []byte {
	hop := connectionList(p.Fields)
	dated := p.Status < 200
	for _, f := range p.Fields {
		dated = dated || f.Name == "date"
		if ours(f.Name) || noStore && f.Name == "cache-control" || hop != "" && http1.Listed(hop, f.Name) {
			continue
		}
		b = appendField(b, f.Name, f.Value)
	}
	if noStore {
		b = append(b, "Cache-Control: no-store\r\n"...)
	}
	if !dated {
		b = append(b, "Date: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendTrailers ends a chunked body.
func appendTrailers(b []byte, trailers []http1.Field) []byte {
	for _, f := range trailers {
		if !ours(f.Name) && f.Name != "trailer" && f.Name != "host" {
			b = appendField(b, f.Name, f.Value)
		}
	}
	return append(b, "\r\n"...)
}
