package kafka

import "time"

// At sets what a consumer runs before and after the COMMIT of a batch, a
// failure or a drain.
func (c *Consumer) At(f func(point, what string)) { c.at = f }

// Clock sets a consumer's clock.
func (c *Consumer) Clock(now func() time.Time) { c.now = now }

// Explain is what logs say beside a client's error.
var Explain = explain

// GroupPatience sets how long a batch waits for the transaction or the round
// before its own.
func (c *Consumer) GroupPatience(d time.Duration) {
	c.rounds.patience = d
	for _, g := range c.groups {
		g.patience = d
	}
}

// GroupWaiting returns how many batches wait for a transaction.
func (c *Consumer) GroupWaiting() (n int) {
	for _, g := range c.groups {
		n += g.count()
	}
	return n
}

// RoundWaiting returns how many batches wait for a round.
func (c *Consumer) RoundWaiting() int {
	c.rounds.mu.Lock()
	defer c.rounds.mu.Unlock()
	return len(c.rounds.waiting)
}
