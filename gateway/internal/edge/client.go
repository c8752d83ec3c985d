package edge

import (
	"net/netip"
	"strings"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

// clientAddr returns the address of the client. It is that of the connection,
// unless a trusted proxy is at its other end: then X-Forwarded-For is read from
// its end, where our proxies wrote, up to the first address that is no trusted
// proxy. What stands before it anybody may have written.
func clientAddr(peer netip.Addr, fields []http1.Field, trusted []netip.Prefix) netip.Addr {
	addr := peer
	if len(trusted) == 0 || !contains(trusted, addr) {
		return addr
	}
	for i := len(fields) - 1; i >= 0; i-- {
		if fields[i].Name != "x-forwarded-for" {
			continue
		}
		list := fields[i].Value
		for more := true; more; {
			var entry string
			if at := strings.LastIndexByte(list, ','); at >= 0 {
				list, entry = list[:at], list[at+1:]
			} else {
				entry, more = list, false
			}
			hop, ok := parseHop(strings.TrimSpace(entry))
			if !ok {
				return addr // the last address that can be believed
			}
			addr = hop
			if !contains(trusted, addr) {
				return addr
			}
		}
	}
	return addr
}

// parseHop reads an address, with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
