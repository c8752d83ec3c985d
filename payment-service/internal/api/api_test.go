package api_test

import (
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

	"github.com/tiffin-platform/tiffin/payment-service/internal/api"
	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	asha = uuid.MustParse("01900000-0000-7000-8000-0000000000f1")
	ben  = uuid.MustParse("01900000-0000-7000-8000-0000000000f2")
	at   = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

type world struct {
	t      *testing.T
	http   string
	issuer *authntest.Issuer
	pool   *pgxpool.Pool
	db     *outbox.DB
	subs   []kafka.Subscription
}

func setup(t *testing.T) world {
	t.Helper()
	t.Parallel()
	w := world{t: t, issuer: authntest.New(t), pool: pgtest.New(t, payment.Migrations)}
	w.db = outbox.NewDB(w.pool, nil)
	own, err := postgres.Open(t.Context(), postgres.Config{URL: w.pool.Config().ConnString(), MaxConns: 4})
	require.NoError(t, err)
	t.Cleanup(own.Close)
	log := slog.New(slog.DiscardHandler)
	payments, err := payment.NewService(w.db, simulator.New(own, 0),
		payment.Config{ProviderName: simulator.Name, ProviderTimeout: 5 * time.Second, RefundRetry: time.Minute}, log, nil, func() time.Time { return at })
	require.NoError(t, err)
	w.subs = api.Subscriptions(payments)
	srv := httptest.NewServer(api.Routes(payments, w.issuer.Verifier(), log, prometheus.NewRegistry()))
	t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	w.http = srv.URL
	return w
}

func (w world) get(who uuid.UUID, role authn.Role, path string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.http+path, nil)
	require.NoError(w.t, err)
	if who != uuid.Nil {
		req.Header.Set("Authorization", "Bearer "+w.issuer.Token(who, role))
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return resp.StatusCode, string(body)
}

// handle gives an event to the service's handler of it.
func (w world) handle(p event.Payload) error {
	w.t.Helper()
	e := event.New("order-service", p)
	return kafkatest.Apply(w.t, w.db, kafkatest.Find(w.t, w.subs, e.Type), e)
}

func (w world) pay(method string) (order uuid.UUID, id, ref string) {
	w.t.Helper()
	order = uuid.Must(uuid.NewV7())
	require.NoError(w.t, w.handle(event.OrderCreated{OrderID: order, CustomerID: asha, Total: 1900, Currency: "EUR", PaymentMethod: method}))
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(), `select id::text, provider_ref from payments where order_id = $1`, order).Scan(&id, &ref))
	return order, id, ref
}

func TestAPaymentIsShownToItsOwnerAndAdmins(t *testing.T) {
	w := setup(t)
	order, id, ref := w.pay(simulator.Visa)
	want := `{"id": "` + id + `", "order_id": "` + order.String() + `", "customer_id": "` + asha.String() + `", "amount": 1900, "currency": "EUR",
		"status": "completed", "provider": "simulator", "provider_ref": "` + ref + `", "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z"}`
	for _, who := range []struct {
		id   uuid.UUID
		role authn.Role
	}{{asha, authn.Customer}, {ben, authn.Admin}} {
		status, body := w.get(who.id, who.role, "/payments/"+id)
		require.Equal(t, http.StatusOK, status)
		require.JSONEq(t, want, body)
		status, body = w.get(who.id, who.role, "/payments?order_id="+order.String())
		require.Equal(t, http.StatusOK, status)
		require.JSONEq(t, `{"items": [`+want+`]}`, body)
	}
	status, body := w.get(ben, authn.Customer, "/payments/"+id)
	require.Equal(t, http.StatusNotFound, status)
	_, unknown := w.get(ben, authn.Customer, "/payments/"+uuid.NewString())
	require.Equal(t, detail(t, unknown), detail(t, body), "somebody else's payment looks like none")
	status, body = w.get(ben, authn.Customer, "/payments?order_id="+order.String())
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"items": []}`, body)
}

func detail(t *testing.T, problem string) string {
	t.Helper()
	var p struct{ Detail string }
	require.NoError(t, json.Unmarshal([]byte(problem), &p))
	return p.Detail
}

func TestAFailedPaymentSaysWhy(t *testing.T) {
	w := setup(t)
	order, id, ref := w.pay(simulator.InsufficientFunds)
	_, body := w.get(asha, authn.Customer, "/payments/"+id)
	require.JSONEq(t, `{"id": "`+id+`", "order_id": "`+order.String()+`", "customer_id": "`+asha.String()+`", "amount": 1900, "currency": "EUR",
		"status": "failed", "provider": "simulator", "provider_ref": "`+ref+`", "failure_code": "insufficient_funds", "failure_message": "Your card has insufficient funds.",
		"created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z"}`, body)
}

func TestRefusals(t *testing.T) {
	w := setup(t)
	order := uuid.NewString()
	for path, want := range map[string]int{
		"/payments":                                          http.StatusBadRequest,
		"/payments?order_id=":                                http.StatusBadRequest,
		"/payments?order_id=7":                               http.StatusBadRequest,
		"/payments?order_id=%7B" + order + "%7D":             http.StatusBadRequest,
		"/payments?order_id=" + order + "&limit=0":           http.StatusBadRequest,
		"/payments?order_id=" + order + "&limit=x":           http.StatusBadRequest,
		"/payments?order_id=" + order + "&cursor=!!":         http.StatusBadRequest,
		"/payments?order_id=" + order + "&cursor=bm90YW5pZA": http.StatusBadRequest,
		"/payments?order_id=" + order:                        http.StatusOK,
		"/payments/7":                                        http.StatusNotFound,
		"/payments/" + order:                                 http.StatusNotFound,
		"/elsewhere":                                         http.StatusNotFound,
	} {
		status, body := w.get(asha, authn.Customer, path)
		require.Equal(t, want, status, "%s: %s", path, body)
	}
	for _, path := range []string{"/payments", "/payments/7", "/payments/" + order} {
		status, _ := w.get(uuid.Nil, "", path)
		require.Equal(t, http.StatusUnauthorized, status, path)
	}
}

func TestSubscriptionsRunAPaymentsLife(t *testing.T) {
	w := setup(t)
	order, id, _ := w.pay(simulator.Visa)
	cancelled := event.OrderCancelled{OrderID: order, CustomerID: asha, Reason: "customer"}
	require.NoError(t, w.handle(cancelled))
	_, body := w.get(asha, authn.Customer, "/payments/"+id)
	require.Contains(t, body, `"refund_pending"`)
	require.NoError(t, w.handle(event.PaymentRefundRequested{OrderID: order}))
	_, body = w.get(asha, authn.Customer, "/payments/"+id)
	require.Contains(t, body, `"refunded"`)
}

func TestTopicsAreWhatIsEmitted(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, []string{"payment.completed", "payment.failed", "payment.refund_requested", "payment.refunded"}, api.Topics())
}

func TestForgedTokensAreRefused(t *testing.T) {
	w := setup(t)
	w.issuer.RequireRefused(t, w.http+"/payments")
}

func TestNoPathLeadsAroundTheToken(t *testing.T) {
	w := setup(t)
	httpxtest.RequireNoWayAround(t, strings.TrimPrefix(w.http, "http://"), "", "/nothing", "/payments")
}
