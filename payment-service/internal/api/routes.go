// Package api holds the edges of the payment service: HTTP and Kafka handlers
// that decode, call the domain and encode.
package api

import (
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

type api struct{ payments *payment.Service }

// Routes returns every route of the service.
func Routes(payments *payment.Service, verifier *authn.Verifier, log *slog.Logger, reg prometheus.Registerer) http.Handler {
	a := api{payments}
	m := httpx.NewRouter(log, reg)
	m.Route("/payments", func(m chi.Router) {
		m.Use(verifier.Require)
		m.Get("/", httpx.Handle(a.list))
		m.Get("/{id}", httpx.Handle(a.get))
	})
	return m
}
