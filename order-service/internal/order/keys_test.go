package order

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestIdempotencyKeyReplays(t *testing.T) {
	t.Parallel()
	w := setup(t)
	first, err := w.Place(t.Context(), someCustomer, "k", demoPlacement())
	require.NoError(t, err)
	require.NoError(t, w.failed(first))
	closed := false
	_, err = w.ChangeRestaurant(t.Context(), demoID("001"), RestaurantInput{Name: "X", Cuisine: "X", Address: "X", Open: &closed, Currency: "EUR"})
	require.NoError(t, err)

	w.pass(24*time.Hour - time.Second)
	again, err := w.Place(t.Context(), someCustomer, "k", demoPlacement())
	require.NoError(t, err)
	require.Equal(t, first, again, "as it was placed, whatever happened since")

	other := demoPlacement()
	other.Items[0].Quantity = 3
	_, err = w.Place(t.Context(), someCustomer, "k", other)
	require.Equal(t, errs.Invalid, errs.KindOf(err), "another body")

	yes := true
	_, err = w.ChangeRestaurant(t.Context(), demoID("001"), RestaurantInput{Name: "X", Cuisine: "X", Address: "X", Open: &yes, Currency: "EUR"})
	require.NoError(t, err)
	stranger, err := w.Place(t.Context(), uuid.Max, "k", other)
	require.NoError(t, err, "keys belong to a customer")
	require.NotEqual(t, first.ID, stranger.ID)

	w.pass(time.Second)
	later, err := w.Place(t.Context(), someCustomer, "k", other)
	require.NoError(t, err, "forgotten after 24 h, pruned or not")
	require.NotEqual(t, first.ID, later.ID)

	n, err := w.PruneKeys(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	w.pass(24 * time.Hour)
	n, err = w.PruneKeys(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func TestARefusedRequestDoesNotUseUpItsKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	p := demoPlacement()
	p.Items[0].MenuItemID = demoID("104")
	_, err := w.Place(t.Context(), someCustomer, "k", p)
	require.Equal(t, errs.Invalid, errs.KindOf(err))
	_, err = w.Place(t.Context(), someCustomer, "k", demoPlacement())
	require.NoError(t, err)
}

func TestTwentyRequestsWithOneKeyMakeOneOrder(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var mu sync.Mutex
	ids := map[uuid.UUID]int{}
	var g errgroup.Group
	for range 20 {
		g.Go(func() error {
			o, err := w.Place(t.Context(), someCustomer, "k", demoPlacement())
			mu.Lock()
			defer mu.Unlock()
			if errs.KindOf(err) == errs.Conflict {
				return nil
			}
			ids[o.ID]++
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.Len(t, ids, 1)
	list, err := w.List(t.Context(), Filter{CustomerID: someCustomer, Limit: 10})
	require.NoError(t, err)
	require.Len(t, list, 1)
}

func TestARunningKeyIsAConflict(t *testing.T) {
	t.Parallel()
	w := setup(t)
	held, release := make(chan struct{}), make(chan struct{})
	var g errgroup.Group
	g.Go(func() error {
		return w.db.InTx(t.Context(), func(tx *outbox.Tx) error {
			_, _, err := w.claimKey(t.Context(), tx, someCustomer, "k", demoPlacement(), w.clock())
			close(held)
			<-release
			return err
		})
	})
	<-held
	_, running := w.Place(t.Context(), someCustomer, "k", demoPlacement())
	_, err := w.Place(t.Context(), someCustomer, "other", demoPlacement())
	_, stranger := w.Place(t.Context(), uuid.Max, "k", demoPlacement())
	close(release)
	require.NoError(t, g.Wait())
	require.NoError(t, stranger, "keys belong to a customer")
	require.Equal(t, errs.Conflict, errs.KindOf(running))
	require.NoError(t, err)
	_, err = w.Place(t.Context(), someCustomer, "k", demoPlacement())
	require.NoError(t, err)
}
