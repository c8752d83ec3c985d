package outbox

import "reflect"

// Kept returns the transaction's T, the same one for each call and a zero T at
// first. It is for what a function that writes in the transaction has to know of
// those before it, such as the rows that are locked already (an identity map:
// Fowler, Patterns of Enterprise Application Architecture). A transaction that is
// run again begins without.
func Kept[T any](t *Tx) *T {
	key := reflect.TypeFor[T]()
	if v, ok := t.kept[key].(*T); ok {
		return v
	}
	if t.kept == nil {
		t.kept = map[reflect.Type]any{}
	}
	v := new(T)
	t.kept[key] = v
	return v
}
