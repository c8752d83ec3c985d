//go:build !linux

package load

import "time"

func sleepUntil(due time.Time) {
	if wait := time.Until(due); wait > 0 {
		<-time.After(wait)
	}
}
