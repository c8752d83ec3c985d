package limit

import (
	"strconv"
	"time"
)

// Names of the fields of draft-ietf-httpapi-ratelimit-headers.
const (
	Field       = "RateLimit"
	PolicyField = "RateLimit-Policy"
)

// Fields collects what the limiters that applied to a request announce. Both
// fields are lists: one item per policy.
type Fields struct{ policy, state []byte }

// Reset empties them.
func (f *Fields) Reset() { f.policy, f.state = f.policy[:0], f.state[:0] }

// Announce adds this limiter's items.
func (l *Limiter) Announce(f *Fields, v Verdict) {
	if l == nil {
		return
	}
	if len(f.policy) > 0 {
		f.policy = append(f.policy, ", "...)
		f.state = append(f.state, ", "...)
	}
	f.policy = append(f.policy, l.policy...)
	f.state = append(f.state, '"')
	f.state = append(f.state, l.name...)
	f.state = append(f.state, `";r=`...)
	f.state = strconv.AppendInt(f.state, int64(v.Remaining), 10)
	f.state = append(f.state, ";t="...)
	f.state = strconv.AppendInt(f.state, seconds(v.Reset), 10)
}

// Append appends the fields as lines of a head, nothing when no limiter applied.
func (f *Fields) Append(b []byte) []byte {
	if len(f.policy) == 0 {
		return b
	}
	b = append(b, PolicyField+": "...)
	b = append(b, f.policy...)
	b = append(b, "\r\n"+Field+": "...)
	b = append(b, f.state...)
	return append(b, "\r\n"...)
}

// policyItem describes the limit itself.
func policyItem(name string, burst int, window time.Duration) string {
	return `"` + name + `";q=` + strconv.Itoa(burst) + ";w=" + strconv.FormatInt(seconds(window), 10)
}

// seconds rounds up: who waits that long finds what was promised.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
