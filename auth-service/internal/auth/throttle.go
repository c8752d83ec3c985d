package auth

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// rate is a leaky bucket: so many failures at once, then one per interval.
type rate struct {
	burst float64
	every time.Duration
}

var (
	// perAccount lets 100 guesses an hour at one account pass (the bound of OWASP
	// ASVS 2.2.1), from however many addresses. It drains by itself: the owner
	// gets his next try within 40 s of an attack's end.
	perAccount = rate{burst: 10, every: 40 * time.Second}
	// perAddress is for many accounts from one address. Behind it may be an
	// office, whose members' good logins do not count.
	perAddress = rate{burst: 30, every: 6 * time.Second}
)

// bucket is one thing whose failures are counted.
type bucket struct {
	key [sha256.Size]byte
	rate
}

// buckets returns what a try at an account from an address counts against.
//
// A place, when there is one, is where the account's owner was before: a
// network with a session of his, or a session itself. Tries from there are
// counted apart, so that somebody who guesses elsewhere cannot keep him out.
func buckets(email string, ip netip.Addr, place string) []bucket {
	return []bucket{
		{sha256.Sum256([]byte("account\x00" + emailKey(email) + "\x00" + place)), perAccount},
		{sha256.Sum256([]byte("address\x00" + network(ip))), perAddress},
	}
}

// network is what one client can pick its addresses from: an IPv4 address, or
// the /64 that IPv6 gives to each link.
func network(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	if !ip.IsValid() {
		return "unknown"
	}
	return ip.String()
}

// throttled is the answer when a bucket is full. level is how full.
func (b bucket) throttled(level float64) error {
	wait := time.Duration(math.Ceil((level+1-b.burst)*b.every.Seconds())) * time.Second
	return &errs.Error{
		Kind:       errs.RateLimited,
		Detail:     "too many failed logins; wait, then try again",
		RetryAfter: max(wait, time.Second),
	}
}
