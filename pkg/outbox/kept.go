package outbox

// Keep puts a V beside the transaction, in place of what was there under the same
// id. It is for rows that the transaction has locked, as it last wrote them, so
// that a function finds what those before it read and changed (an identity map:
// Fowler, Patterns of Enterprise Application Architecture). It ends with the
// transaction; one that is run again begins without.
func Keep[V any, K comparable](t *Tx, id K, v V) {
	if t.kept == nil {
		t.kept = map[any]any{}
	}
	t.kept[keptKey[V, K]{id}] = v
}

// Kept returns the V that was kept under id, and whether one was.
func Kept[V any, K comparable](t *Tx, id K) (V, bool) {
	v, ok := t.kept[keptKey[V, K]{id}].(V)
	return v, ok
}

// keptKey is of another type for each V: ids of different things do not meet.
type keptKey[V any, K comparable] struct{ id K }
