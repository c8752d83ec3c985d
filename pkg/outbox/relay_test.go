package outbox_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestRelayPublishesWhatIsCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.emit(keys(3)...)
	run(t, w.bell.Run)
	run(t, w.relay(outbox.RelayConfig{}).Run)
	w.drained()
	after := w.emit(keys(3)...)
	w.drained()

	want := map[string]event.Event{}
	for _, e := range append(before, after...) {
		want[e.ID.String()] = e
	}
	records := w.published()
	require.Len(t, records, 6)
	for _, r := range records {
		e := want[header(r, event.HeaderID)]
		require.Equal(t, e.Subject, string(r.Key))
		require.Equal(t, e.Data, r.Value)
		var got []event.Header
		for _, h := range r.Headers {
			got = append(got, event.Header{Key: h.Key, Value: string(h.Value)})
		}
		require.Equal(t, e.Headers(), got)
	}
}
