package edge

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// target is a request target that passed: canonical, and the same text for
// routing and for the service.
type target struct {
	path string
	text string // with the query
}

// parseTarget checks the form of a request target (RFC 9112 §3.2) and makes it
// canonical, once, before anything looks at it. What two readers could take for
// two different paths is refused, never repaired.
func parseTarget(uri string) (target, error) {
	if !strings.HasPrefix(uri, "/") {
		// Absolute form, as sent to proxies; the host in it names nothing here.
		scheme, rest, ok := strings.Cut(uri, "://")
		if u, err := url.ParseRequestURI(uri); err != nil || u.User != nil {
			ok = false
		}
		if !ok || (!strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https")) {
			return target{}, errs.New(errs.Malformed, "the request target must be a path")
		}
		at := strings.IndexAny(rest, "/?")
		if at < 0 || rest[at] == '?' {
			return target{}, errs.New(errs.Malformed, "the request target must have a path")
		}
		uri = rest[at:]
	}
	raw, query, _ := strings.Cut(uri, "?")
	path, err := canonicalPath(raw)
	if err != nil {
		return target{}, err
	}
	if err := checkQuery(query); err != nil {
		return target{}, err
	}
	switch {
	case query == "":
		return target{path, path}, nil
	case path == raw:
		return target{path, uri}, nil
	default:
		return target{path, path + "?" + query}, nil
	}
}

// canonicalPath decodes percent-encoded unreserved characters (RFC 3986 §6.2.2)
// and refuses paths with empty or dot segments and with characters, encoded or
// not, that some server takes for a separator or an end.
func canonicalPath(raw string) (string, error) {
	path := raw
	if strings.IndexByte(raw, '%') >= 0 {
		b := make([]byte, 0, len(raw))
		for i := 0; i < len(raw); i++ {
			if raw[i] != '%' {
				b = append(b, raw[i])
				continue
			}
			c, ok := unhex(raw, i)
			switch {
			case !ok:
				return "", errs.New(errs.Malformed, "the path has a broken percent-encoding")
			case c < ' ' || c == 0x7f || strings.IndexByte(`/\;%`, c) >= 0:
				return "", errs.New(errs.Malformed, "the path may not hold %q, encoded or not", c)
			case unreserved(c):
				b = append(b, c)
			default:
				b = append(b, '%', upperHex(raw[i+1]), upperHex(raw[i+2]))
			}
			i += 2
		}
		path = string(b)
		// Overlong and broken UTF-8 is a dot or a slash to some decoders.
		if decoded, err := url.PathUnescape(path); err != nil || !utf8.ValidString(decoded) {
			return "", errs.New(errs.Malformed, "the path is not UTF-8")
		}
	}
	segment := 0 // where the present one begins
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			switch s := path[segment+1 : i]; {
			case s == "" && i < len(path):
				return "", errs.New(errs.Malformed, "the path may not hold //")
			case s == "." || s == "..":
				return "", errs.New(errs.Malformed, "the path may not hold dot segments")
			}
			segment = i
			continue
		}
		if c := path[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\\;#\"<>^`{|}", c) >= 0 {
			return "", errs.New(errs.Malformed, "the path may not hold %q", c)
		}
	}
	return path, nil
}

// checkQuery refuses what parsers of queries read in different ways. The query
// is forwarded as it is.
func checkQuery(query string) error {
	for i := 0; i < len(query); i++ {
		switch c := query[i]; {
		case c == '%':
			d, ok := unhex(query, i)
			if !ok || d == 0 {
				return errs.New(errs.Malformed, "the query has a broken percent-encoding")
			}
		case c <= ' ' || c >= 0x7f || c == ';' || c == '#':
			return errs.New(errs.Malformed, "the query may not hold %q; percent-encode it", c)
		}
	}
	return nil
}

func unhex(s string, at int) (byte, bool) {
	if at+2 >= len(s) {
		return 0, false
	}
	hi, ok1 := hexDigit(s[at+1])
	lo, ok2 := hexDigit(s[at+2])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

func upperHex(c byte) byte {
	if 'a' <= c && c <= 'f' {
		return c - 'a' + 'A'
	}
	return c
}

func unreserved(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}
