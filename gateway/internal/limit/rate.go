package limit

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// Rate is a number of requests per second, minute or hour; the zero Rate is
// off. A client may use twice the number at once.
type Rate struct {
	Count float64
	Per   time.Duration
}

// maxCount bounds a setting so that a typing error is seen.
const maxCount = 1_000_000

// ParseRate reads "100/s", "20/m", "500/h" or "off".
func ParseRate(s string) (Rate, error) {
	if s == "off" {
		return Rate{}, nil
	}
	count, per, ok := strings.Cut(s, "/")
	unit, known := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[per]
	n, err := strconv.ParseUint(count, 10, 32)
	if !ok || !known || err != nil || n == 0 || n > maxCount {
		return Rate{}, errors.New("must be a number per s, m or h such as 100/s or 20/m, or off")
	}
	return Rate{Count: float64(n), Per: unit}, nil
}

// Off tells whether nothing is limited.
func (r Rate) Off() bool { return r.Count == 0 }

// Divide returns one replica's share.
func (r Rate) Divide(replicas int) Rate {
	r.Count /= float64(replicas)
	return r
}

// Burst is how many requests a rested client may send at once.
func (r Rate) Burst() int { return max(int(math.Round(2*r.Count)), 1) }

func (r Rate) limit() rate.Limit { return rate.Limit(r.Count / r.Per.Seconds()) }
