package order

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

func TestMenuReplacement(t *testing.T) {
	t.Parallel()
	w := setup(t)
	o := w.place()
	yes := true
	dal, other := demoID("101"), demoID("201")
	got, err := w.ReplaceMenu(t.Context(), demoID("001"), MenuInput{Menu: []MenuItemInput{
		{Name: "New", Price: 100, Available: &yes}, {ID: &dal, Name: "Dal", Price: 999, Available: &yes},
	}})
	require.NoError(t, err)
	require.Len(t, got.Menu, 2)
	require.Equal(t, MenuItem{ID: dal, Name: "Dal", Price: 999, Available: true}, got.Menu[1])
	read, err := w.Restaurant(t.Context(), demoID("001"))
	require.NoError(t, err)
	require.Equal(t, got, read)
	require.Equal(t, o, w.get(o.ID), "orders keep what they contain")
	_, err = w.Place(t.Context(), someCustomer, "", demoPlacement())
	require.Equal(t, map[string]string{"/items/1/menu_item_id": "is not on the menu of this restaurant"}, fields(t, err))

	_, err = w.ReplaceMenu(t.Context(), demoID("001"), MenuInput{Menu: []MenuItemInput{{ID: &other, Name: "Stolen", Price: 1, Available: &yes}}})
	require.Equal(t, errs.Invalid, errs.KindOf(err))
	_, err = w.ReplaceMenu(t.Context(), uuid.Max, MenuInput{Menu: []MenuItemInput{}})
	require.Equal(t, errs.NotFound, errs.KindOf(err))

	require.NoError(t, w.SeedDemo(t.Context()), "again, as at the next start")
	read, err = w.Restaurant(t.Context(), demoID("001"))
	require.NoError(t, err)
	require.Equal(t, got, read, "seeding leaves an Admin's changes alone")
}

func TestMenusReplacedAtOnceStayWhole(t *testing.T) {
	t.Parallel()
	w := setup(t)
	yes := true
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			var in MenuInput
			for range 5 {
				in.Menu = append(in.Menu, MenuItemInput{Name: fmt.Sprint(i), Price: 1, Available: &yes})
			}
			_, err := w.ReplaceMenu(t.Context(), demoID("002"), in)
			return err
		})
	}
	require.NoError(t, g.Wait())
	r, err := w.Restaurant(t.Context(), demoID("002"))
	require.NoError(t, err)
	require.Len(t, r.Menu, 5)
	for _, m := range r.Menu {
		require.Equal(t, r.Menu[0].Name, m.Name)
	}
}
