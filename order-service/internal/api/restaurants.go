package api

import (
	"net/http"

	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

func (a *api) listRestaurants(w http.ResponseWriter, r *http.Request) error {
	page, err := httpx.ReadPage(r)
	if err != nil {
		return err
	}
	after, err := page.BeforeID()
	if err != nil {
		return err
	}
	list, err := a.orders.Restaurants(r.Context(), after, page.Limit+1)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.NewList(list, page.Limit, func(r order.Restaurant) string { return r.ID.String() }))
}

func (a *api) getRestaurant(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	found, err := a.orders.Restaurant(r.Context(), id)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, found)
}

func (a *api) addRestaurant(w http.ResponseWriter, r *http.Request) error {
	in, err := httpx.ReadJSON[order.RestaurantInput](w, r)
	if err != nil {
		return err
	}
	added, err := a.orders.AddRestaurant(r.Context(), in)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/restaurants/"+added.ID.String())
	return httpx.WriteJSON(w, http.StatusCreated, added)
}

func (a *api) changeRestaurant(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	in, err := httpx.ReadJSON[order.RestaurantInput](w, r)
	if err != nil {
		return err
	}
	changed, err := a.orders.ChangeRestaurant(r.Context(), id, in)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, changed)
}

func (a *api) replaceMenu(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	in, err := httpx.ReadJSON[order.MenuInput](w, r)
	if err != nil {
		return err
	}
	changed, err := a.orders.ReplaceMenu(r.Context(), id, in)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, changed)
}
