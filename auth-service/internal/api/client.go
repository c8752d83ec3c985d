package api

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
)

// client returns where a request came from. That is the connection's peer,
// unless it is a trusted proxy: then the last entry of X-Forwarded-For, the one
// that this proxy wrote. The gateway removes what clients send in that field
// and writes the address it decided on, so there is no list to walk.
func (a *api) client(r *http.Request) auth.Client {
	c := auth.Client{UserAgent: r.UserAgent()}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return c
	}
	c.IP = peer.Addr().Unmap().WithZone("")
	if !a.trusts(c.IP) {
		return c
	}
	fields := r.Header["X-Forwarded-For"]
	if len(fields) == 0 {
		return c
	}
	list := fields[len(fields)-1]
	last := strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:])
	if ip, err := netip.ParseAddr(last); err == nil {
		c.IP = ip.Unmap().WithZone("")
	}
	return c
}

func (a *api) trusts(ip netip.Addr) bool {
	for _, p := range a.proxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
