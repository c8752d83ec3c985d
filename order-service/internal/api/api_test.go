package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/order-service/internal/api"
	"github.com/tiffin-platform/tiffin/order-service/internal/order"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	asha = uuid.MustParse("01900000-0000-7000-8000-0000000000f1")
	ben  = uuid.MustParse("01900000-0000-7000-8000-0000000000f2")
	root = uuid.MustParse("01900000-0000-7000-8000-0000000000f3")

	at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

const (
	saffron  = "01900000-0000-7000-8000-000000000001"
	dal      = "01900000-0000-7000-8000-000000000101"
	naan     = "01900000-0000-7000-8000-000000000103"
	lassi    = "01900000-0000-7000-8000-000000000104" // not available
	pizza    = "01900000-0000-7000-8000-000000000201" // another restaurant's
	unknown  = "01900000-0000-7000-8000-0000000000ff"
	dalOrder = `{"restaurant_id":"` + saffron + `","items":[{"menu_item_id":"` + dal + `","quantity":2},{"menu_item_id":"` + naan + `","quantity":1}],` +
		`"delivery_address":{"line1":"1 Main St","city":"Berlin","postal_code":"10115","country":"DE"},"payment_method":"pm_card_visa"}`
)

// world is one or more replicas of the service on one database.
type world struct {
	t      *testing.T
	url    string
	pool   *pgxpool.Pool
	issuer *authntest.Issuer
	db     *outbox.DB
	orders *order.Service
	http   string // base URL of the first replica
}

func setup(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, url: pgtest.URL(t, order.Migrations), issuer: authntest.New(t)}
	w.http, w.pool, w.db, w.orders = w.replica()
	require.NoError(t, w.orders.SeedDemo(t.Context()))
	return w
}

// replica starts a further one of the service, with connections, doorbell and
// HTTP server of its own.
func (w *world) replica() (base string, pool *pgxpool.Pool, db *outbox.DB, orders *order.Service) {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	pool, err := postgres.Open(w.t.Context(), postgres.Config{URL: w.url, MaxConns: 8})
	require.NoError(w.t, err)
	w.t.Cleanup(pool.Close)
	bell := postgres.NewDoorbell(pool, log)
	ctx, stop := context.WithCancel(context.Background())
	rung := make(chan error, 1)
	go func() { rung <- bell.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		<-rung
	})
	db = outbox.NewDB(pool, bell)
	orders = order.NewService(db, 10*time.Minute, log, func() time.Time { return at })
	srv := httptest.NewServer(api.Routes(orders, bell, w.issuer.Verifier(), log, prometheus.NewRegistry()))
	w.t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return srv.URL, pool, db, orders
}

func (w *world) token(user uuid.UUID) string {
	w.t.Helper()
	role := authn.Customer
	if user == root {
		role = authn.Admin
	}
	return w.issuer.Token(user, role)
}

type answer struct {
	status int
	header http.Header
	body   string
}

// call sends a request as user, uuid.Nil for nobody. Header is pairs.
func (w *world) call(user uuid.UUID, method, path, body string, header ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.http+path, strings.NewReader(body))
	require.NoError(w.t, err)
	if user != uuid.Nil {
		req.Header.Set("Authorization", "Bearer "+w.token(user))
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Content-Type" {
			req.Header.Del(header[i])
		}
		req.Header.Add(header[i], header[i+1])
	}
	req.Header.Set("X-Request-ID", "r1")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// place orders as user and gives the order's id.
func (w *world) place(user uuid.UUID) string {
	w.t.Helper()
	a := w.call(user, "POST", "/orders", dalOrder)
	require.Equal(w.t, 201, a.status, a.body)
	return w.id(a)
}

func (w *world) id(a answer) string {
	w.t.Helper()
	var v struct{ ID string }
	require.NoError(w.t, json.Unmarshal([]byte(a.body), &v))
	return v.ID
}

// pay applies payment.completed to an order of dalOrder.
func (w *world) pay(orderID string) event.Event {
	w.t.Helper()
	p := event.PaymentCompleted{PaymentID: uuid.Max, OrderID: uuid.MustParse(orderID), Amount: 2250, Currency: "EUR"}
	e := event.New("payment-service", p)
	e.Time = at
	require.NoError(w.t, w.db.InTx(w.t.Context(), func(tx *outbox.Tx) error {
		return w.orders.ApplyPaymentCompleted(w.t.Context(), tx, e, p)
	}))
	return e
}

// refund applies payment.refunded to an order of dalOrder.
func (w *world) refund(orderID string) {
	w.t.Helper()
	p := event.PaymentRefunded{PaymentID: uuid.Max, OrderID: uuid.MustParse(orderID), Amount: 2250, Currency: "EUR"}
	require.NoError(w.t, w.db.InTx(w.t.Context(), func(tx *outbox.Tx) error {
		return w.orders.ApplyPaymentRefunded(w.t.Context(), tx, event.New("payment-service", p), p)
	}))
}

// rows counts a table's rows.
func (w *world) rows(table string) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(), `select count(*) from `+table).Scan(&n))
	return n
}

// orderJSON is the answer about an order of dalOrder.
func orderJSON(id, status, more string) string {
	return `{"id":"` + id + `","customer_id":"` + asha.String() + `","restaurant_id":"` + saffron + `","restaurant_name":"Saffron & Smoke",
		"status":"` + status + `","items":[
			{"menu_item_id":"` + dal + `","name":"Dal Makhani","unit_price":950,"quantity":2,"line_total":1900},
			{"menu_item_id":"` + naan + `","name":"Garlic Naan","unit_price":350,"quantity":1,"line_total":350}],
		"total":2250,"currency":"EUR","delivery_address":{"line1":"1 Main St","city":"Berlin","postal_code":"10115","country":"DE"},
		"payment_method":"pm_card_visa","notes":"",` + more + `"payment_deadline":"2026-01-02T03:14:05Z",
		"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:05Z"}`
}

// problem checks a whole problem+json answer. fields are pairs of pointer and detail.
func problem(t *testing.T, a answer, status int, slug, title, detail, instance string, fields ...string) {
	t.Helper()
	want := map[string]any{"type": "/problems/" + slug, "title": title, "status": status, "detail": detail, "instance": instance, "request_id": "r1"}
	if len(fields) > 0 {
		var list []map[string]string
		for i := 0; i < len(fields); i += 2 {
			list = append(list, map[string]string{"pointer": fields[i], "detail": fields[i+1]})
		}
		want["errors"] = list
	}
	body, err := json.Marshal(want)
	require.NoError(t, err)
	require.JSONEq(t, string(body), a.body)
	require.Equal(t, status, a.status)
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
}
