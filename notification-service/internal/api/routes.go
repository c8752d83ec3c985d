// Package api holds the edges of the notification service: its routes and its
// subscriptions. They decode, call the domain and encode.
package api

import (
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

type handlers struct{ svc *notification.Service }

// Routes returns every route of the service.
func Routes(svc *notification.Service, verifier *authn.Verifier, log *slog.Logger, reg prometheus.Registerer) http.Handler {
	h := handlers{svc}
	r := httpx.NewRouter(log, reg)
	r.Route("/notifications", func(r chi.Router) {
		r.Use(verifier.Require)
		r.Get("/", httpx.Handle(h.list))
		r.Get("/stream", httpx.Handle(h.stream))
		r.Post("/{id}/read", httpx.Handle(h.read))
	})
	return r
}
