package outbox

// At sets what a relay runs at the points where a crash matters.
func (r *Relay) At(f func(point string)) { r.at = f }
