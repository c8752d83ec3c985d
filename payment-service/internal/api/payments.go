package api

import (
	"net/http"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// Answers are the domain's own type, whose JSON is the API's.

func actor(r *http.Request) payment.Actor {
	p := authn.From(r.Context())
	return payment.Actor{ID: p.UserID, Admin: p.Role == authn.Admin}
}

// list answers with one payment at most: an order has no more. It still takes
// limit and cursor as every list does, and refuses bad ones.
func (a api) list(w http.ResponseWriter, r *http.Request) error {
	page, err := httpx.ReadPage(r)
	if err != nil {
		return err
	}
	if _, err := page.BeforeID(); err != nil {
		return err
	}
	order, ok, err := httpx.QueryID(r, "order_id")
	if err != nil {
		return err
	}
	if !ok {
		return errs.New(errs.Malformed, "order_id is missing: say whose payment to list")
	}
	list, err := a.payments.OfOrder(r.Context(), actor(r), order)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.NewList(list, page.Limit, func(p payment.Payment) string { return p.ID.String() }))
}

func (a api) get(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	p, err := a.payments.Get(r.Context(), actor(r), id)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, p)
}
