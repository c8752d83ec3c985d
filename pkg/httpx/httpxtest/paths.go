package httpxtest

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// climbs lead one level up to some reader: as they stand, encoded once or
// twice, in overlong UTF-8, with other separators, behind a path parameter.
var climbs = []string{
	"/..", "/%2e%2e", "/.%2e", "/%2E.", "%2f..", "%2F%2e%2e", `\..`, `/..\..`, "%5c..", "%5C%2e%2e", "/%252e%252e", "%252f..", "%25%32%66..",
	"/%c0%ae%c0%ae", "/\xc0\xae\xc0\xae", "/%e0%80%ae%e0%80%ae", "/%f0%80%80%ae.", "%c0%af..", "%e0%80%af..", "%c1%9c..", "/%u002e%u002e", "/%uff0e%uff0e", "/%ef%bc%8e%ef%bc%8e", "%e2%88%95..",
	"/..;", "/..;x=1", ";/..", "/.;/..", "/..%3b", "/..%00", "%00/..", "/..%0d%0a", "/..%09", "/..%20", "/..%7f", "/..#", "/..%23", "/..?", "/..%3f", "/...", "/....", "/./..", "//..", "/%2e/%2e%2e", "/x/../..", "/.../..", "/..../../..",
}

var statusLine = regexp.MustCompile(`^HTTP/1\.\d (\d\d\d) `)

// PathTricks returns request targets that some reader takes for the path to,
// although they begin with from or are spelled otherwise.
func PathTricks(from, to string) []string {
	var all []string
	for _, c := range climbs {
		all = append(all, from+c+to, from+"/x"+c+c+to, "http://x"+from+c+to)
	}
	for _, before := range []string{"/", "//", "/.", "/%2e", "/%2f", `/\`, "/%5c", "/x/..", "/;", "/;x", "/%00", "//x", "/..", "http:", "x", "*", "/%ef%bb%bf"} {
		all = append(all, before+to)
	}
	for _, after := range []string{".", "/.", "/..", "..", "%20", "%00", ";", ";x", "%3b", "//", "%2f", `\`, "%5c", "%2e", "#", "%23", "%0a", "~", "%25", "/%c0%af"} {
		all = append(all, to+after)
	}
	return append(all, strings.ToUpper(to), strings.ToUpper(to[:2])+to[2:], "http://x"+strings.ToUpper(to), "x:80", "*", strings.TrimPrefix(to, "/"))
}

// RequireNoWayAround sends every trick with a token that does not open to, and
// requires a refusal: 4xx, and never an error of the server's.
func RequireNoWayAround(t *testing.T, addr, token, from, to string) {
	t.Helper()
	for _, target := range append(PathTricks(from, to), to) {
		answer := Send(t, addr, "GET "+target+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\nConnection: close\r\n\r\n")
		status := statusLine.FindStringSubmatch(answer)
		require.Len(t, status, 2, "%q: %.200q", target, answer)
		require.Equal(t, "4", status[1][:1], "%q: %.200q", target, answer)
	}
}
