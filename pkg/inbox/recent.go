package inbox

// Recent is a set of the last claims that were committed. It spares the
// database the common duplicate, the one that comes soon after the first. It is
// for one goroutine, and grows only as it is filled.
type Recent struct {
	size  int
	known map[Claim]struct{}
	ring  []Claim // in the order of their arrival; next is the oldest once full
	next  int
}

// NewRecent returns a set of at most size claims.
func NewRecent(size int) *Recent {
	return &Recent{size: size, known: map[Claim]struct{}{}}
}

// Has reports whether c is known.
func (r *Recent) Has(c Claim) bool {
	_, ok := r.known[c]
	return ok
}

// Add makes c known, in place of the oldest when the set is full. Call it only
// after the COMMIT that holds the claim: before, a crash would make it a lie.
func (r *Recent) Add(c Claim) {
	if _, ok := r.known[c]; ok {
		return
	}
	r.known[c] = struct{}{}
	if len(r.ring) < r.size {
		r.ring = append(r.ring, c)
		return
	}
	delete(r.known, r.ring[r.next])
	r.ring[r.next] = c
	r.next = (r.next + 1) % r.size
}
