package api

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// Requests and answers are the domain's own types, whose JSON is API.md.

func actor(r *http.Request) order.Actor {
	p := authn.From(r.Context())
	return order.Actor{ID: p.UserID, Admin: p.Role == authn.Admin}
}

func (a *api) placeOrder(w http.ResponseWriter, r *http.Request) error {
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	p, err := httpx.ReadJSON[order.Placement](w, r)
	if err != nil {
		return err
	}
	o, err := a.orders.Place(r.Context(), actor(r).ID, key, p)
	if err != nil {
		return err
	}
	httpx.Note(r.Context(), slog.String("order_id", o.ID.String()))
	w.Header().Set("Location", "/orders/"+o.ID.String())
	return httpx.WriteJSON(w, http.StatusCreated, o)
}

// idempotencyKey gives the request's Idempotency-Key, "" when it has none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	ok := len(values) == 1 && len(key) >= 1 && len(key) <= 255
	for i := 0; ok && i < len(key); i++ {
		ok = key[i] > ' ' && key[i] <= '~'
	}
	if !ok {
		return "", errs.New(errs.Malformed, "Idempotency-Key must be one value of 1 to 255 visible ASCII characters")
	}
	return key, nil
}

func (a *api) listOwnOrders(w http.ResponseWriter, r *http.Request) error {
	return a.listOrders(w, r, actor(r).ID)
}

func (a *api) listAllOrders(w http.ResponseWriter, r *http.Request) error {
	customer, one, err := httpx.QueryID(r, "customer_id")
	if err != nil {
		return err
	}
	if one && customer == uuid.Nil { // which would stand for everybody
		return errs.New(errs.Malformed, "customer_id must be a customer's id")
	}
	return a.listOrders(w, r, customer)
}

func (a *api) listOrders(w http.ResponseWriter, r *http.Request, customer uuid.UUID) error {
	page, err := httpx.ReadPage(r)
	if err != nil {
		return err
	}
	before, err := page.BeforeID()
	if err != nil {
		return err
	}
	status := order.Status(r.URL.Query().Get("status"))
	if r.URL.Query().Has("status") && !status.Valid() {
		return errs.New(errs.Malformed, "status must be one of %v", order.Statuses())
	}
	list, err := a.orders.List(r.Context(), order.Filter{CustomerID: customer, Status: status, Before: before, Limit: page.Limit + 1})
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.NewList(list, page.Limit, func(o order.Order) string { return o.ID.String() }))
}

func (a *api) getOrder(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	o, err := a.orders.Get(r.Context(), actor(r), id)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, o)
}

func (a *api) getTimeline(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	if _, err := a.orders.Get(r.Context(), actor(r), id); err != nil {
		return err
	}
	list, err := a.orders.Timeline(r.Context(), id, 0)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.List[order.Entry]{Items: list})
}

// streamOrder sends the order as it is and then its timeline, entry by entry,
// from where a client that reconnects left off. The order's event has no id, so
// that a connection that breaks right after it loses no entry. The stream ends
// with the token: the client comes back with a new one.
func (a *api) streamOrder(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	last, err := httpx.LastEventID(r)
	if err != nil {
		return err
	}
	wake, stop := a.bell.Subscribe(order.BellKey(id)) // before the first look, so that nothing falls between
	defer stop()
	o, err := a.orders.Get(r.Context(), actor(r), id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(r.Context(), authn.From(r.Context()).Expires)
	defer cancel()
	begun := false
	return httpx.Follow(w, r.WithContext(ctx), wake, func(ctx context.Context, s *httpx.Stream) error {
		if !begun {
			if err := s.Send(0, "order", o); err != nil {
				return err
			}
			begun = true
		}
		list, err := a.orders.Timeline(ctx, id, last)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := s.Send(e.Seq, "timeline", e); err != nil {
				return err
			}
			last = e.Seq
		}
		return nil
	})
}

func (a *api) cancelOrder(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	if err := httpx.NoBody(r); err != nil {
		return err
	}
	o, err := a.orders.Cancel(r.Context(), actor(r), id)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, o)
}

type statusRequest struct {
	Status order.Status `json:"status"`
}

func (a *api) setStatus(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	in, err := httpx.ReadJSON[statusRequest](w, r)
	if err != nil {
		return err
	}
	o, err := a.orders.SetStatus(r.Context(), id, in.Status)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, o)
}
