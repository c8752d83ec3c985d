package limit

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// Names of the fields of draft-ietf-httpapi-ratelimit-headers.
const (
	Field       = "RateLimit"
	PolicyField = "RateLimit-Policy"
)

// Announce adds this limiter's items to the RateLimit and RateLimit-Policy
// fields of an answer. Both are lists: one item per policy that applied.
func (l *Limiter) Announce(h http.Header, v Verdict) {
	if l == nil {
		return
	}
	window := l.refill(float64(l.rate.Burst()))
	appendItem(h, PolicyField, `"`+l.name+`";q=`+strconv.Itoa(l.rate.Burst())+`;w=`+seconds(window))
	appendItem(h, Field, `"`+l.name+`";r=`+strconv.Itoa(v.Remaining)+`;t=`+seconds(v.Reset))
}

// appendItem keeps the spelling of the draft; Header.Set would write "Ratelimit".
func appendItem(h http.Header, field, item string) {
	if old := h[field]; len(old) == 1 {
		item = old[0] + ", " + item
	}
	h[field] = []string{item}
}

// seconds rounds up: who waits that long finds what was promised.
func seconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}
