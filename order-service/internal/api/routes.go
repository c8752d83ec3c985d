// Package api holds the edges of the order service: HTTP and Kafka handlers
// that decode, call the domain and encode.
package api

import (
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

type api struct {
	orders *order.Service
	bell   *postgres.Doorbell
}

// Routes returns every route of the service.
func Routes(orders *order.Service, bell *postgres.Doorbell, verifier *authn.Verifier, log *slog.Logger, reg prometheus.Registerer) http.Handler {
	a := &api{orders: orders, bell: bell}
	m := httpx.NewRouter(log, reg)

	m.Get("/restaurants", httpx.Handle(a.listRestaurants))
	m.Get("/restaurants/{id}", httpx.Handle(a.getRestaurant))

	m.Route("/orders", func(m chi.Router) {
		m.Use(verifier.Require)
		m.Post("/", httpx.Handle(a.placeOrder))
		m.Get("/", httpx.Handle(a.listOwnOrders))
		m.Get("/{id}", httpx.Handle(a.getOrder))
		m.Get("/{id}/timeline", httpx.Handle(a.getTimeline))
		m.Get("/{id}/events", httpx.Handle(a.streamOrder))
		m.Post("/{id}/cancel", httpx.Handle(a.cancelOrder))
	})

	m.Route("/admin", func(m chi.Router) {
		m.Use(verifier.Require, authn.RequireRole(authn.Admin))
		m.Get("/orders", httpx.Handle(a.listAllOrders))
		m.Post("/orders/{id}/status", httpx.Handle(a.setStatus))
		m.Post("/restaurants", httpx.Handle(a.addRestaurant))
		m.Put("/restaurants/{id}", httpx.Handle(a.changeRestaurant))
		m.Put("/restaurants/{id}/menu", httpx.Handle(a.replaceMenu))
	})
	return m
}
