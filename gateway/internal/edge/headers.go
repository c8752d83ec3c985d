package edge

import (
	"net/http"
	"net/textproto"
	"strings"
)

// claims are the names with which proxies tell a service what they know about
// a client. Whoever sends them from outside wants to be taken for a proxy, so
// they are removed; services trust the token only.
var claims = map[string]bool{
	"Forwarded": true, "True-Client-Ip": true, "Client-Ip": true, "X-Client-Ip": true, "X-Real-Ip": true,
	"X-Cluster-Client-Ip": true, "Fastly-Client-Ip": true, "Remote-Addr": true, "Remote-User": true,
	"Role": true, "Roles": true, "User-Id": true, "User-Role": true, "X-Role": true, "X-Roles": true,
	"X-Rewrite-Url": true, "X-Http-Method": true, "X-Http-Method-Override": true, "X-Method-Override": true,
	"X-Idempotency-Key": true, // net/http would take it as leave to send a request twice
	"Proxy":             true, // becomes HTTP_PROXY in CGI programs
}

var claimPrefixes = []string{
	"X-User", "X-Forwarded", "X-Role", "X-Auth", "X-Original", "X-Remote", "X-Envoy", "X-Principal", "X-Subject",
	"X-Session", "X-Customer", "X-Admin", "X-Is-Admin", "X-Tenant", "X-Tiffin", "X-Jwt", "X-Token", "X-Claim", "X-Account",
	"X-Real-", "X-Client-", "X-Amzn-", "X-Azure-", "X-Goog-", "Cf-",
}

// kept are the fields that a client cannot take away by naming them in
// Connection: they are for the service, not for this hop.
var kept = map[string]bool{
	"Authorization": true, "X-Request-Id": true, "Traceparent": true, "Tracestate": true, "Host": true,
	"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Idempotency-Key": true,
	"Last-Event-Id": true, "Accept": true, "User-Agent": true, "X-Forwarded-For": true,
}

// scrub removes from a request's head what is not for services: claims about
// the client, fields of this hop, and names with an underscore, which some
// frameworks read as a hyphen.
func scrub(h http.Header) {
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)); !kept[name] {
				delete(h, name)
			}
		}
	}
	delete(h, "Connection")
	delete(h, "Te")
	delete(h, "Trailer")
	delete(h, "Expect") // the gateway gives the 100 itself, when it passes the body on
	for name := range h {
		if claims[name] || claimed(name) {
			delete(h, name)
		}
	}
}

func claimed(name string) bool {
	if strings.IndexByte(name, '_') >= 0 {
		return true
	}
	if name[0] != 'X' && name[0] != 'C' {
		return false
	}
	for _, p := range claimPrefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// ours are fields of an answer that only the gateway sets.
var ours = []string{
	"X-Request-Id", "X-Content-Type-Options", "Ratelimit", "Ratelimit-Policy", "Server",
	"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
	"Access-Control-Allow-Credentials", "Access-Control-Expose-Headers", "Access-Control-Max-Age",
}
