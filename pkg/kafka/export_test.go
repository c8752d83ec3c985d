package kafka

import "time"

// At sets what a consumer runs before and after the COMMIT of a batch, a
// failure or a drain.
func (c *Consumer) At(f func(point, what string)) { c.at = f }

// Clock sets a consumer's clock.
func (c *Consumer) Clock(now func() time.Time) { c.now = now }

// Explain is what logs say beside a client's error.
var Explain = explain
