package upstream

import "time"

// take returns a connection that was kept, the one last used, or nil. One that
// was closed meanwhile, or on which bytes came that nobody asked for and that
// would be taken for the answer to the next request, is of no use.
func (a *address) take() *conn {
	for {
		a.mu.Lock()
		n := len(a.idle)
		if n == 0 {
			a.mu.Unlock()
			return nil
		}
		c := a.idle[n-1]
		a.idle[n-1] = nil
		a.idle = a.idle[:n-1]
		a.mu.Unlock()
		if c.below.Quiet() {
			return c
		}
		_ = c.Close()
	}
}

// keep keeps a connection for the next request.
func (a *address) keep(c *conn) {
	c.release()
	c.req, c.upload = nil, nil
	c.since = time.Now()
	a.mu.Lock()
	full := len(a.idle) >= maxIdle
	if !full {
		a.idle = append(a.idle, c)
	}
	a.mu.Unlock()
	if full {
		_ = c.Close()
	}
}

// closeIdle closes the kept connections that nobody has used since then; all
// of them for the zero time.
func (a *address) closeIdle(since time.Time) {
	a.mu.Lock()
	n := len(a.idle)
	if !since.IsZero() {
		for n = 0; n < len(a.idle) && a.idle[n].since.Before(since); n++ { // the oldest stand first
		}
	}
	old := append([]*conn(nil), a.idle[:n]...)
	rest := copy(a.idle, a.idle[n:])
	clear(a.idle[rest:])
	a.idle = a.idle[:rest]
	a.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
}
