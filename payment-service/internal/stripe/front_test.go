package stripe_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"
	"github.com/stripe/stripe-mock/spec"
)

const secret = "sk_test_123"

// newMock loads stripe-mock, once: it checks every request against Stripe's own
// OpenAPI description and answers with its fixtures. It remembers nothing.
var newMock = sync.OnceValues(func() (*server.StubServer, error) {
	var description spec.Spec
	if err := json.Unmarshal(embedded.OpenAPISpec, &description); err != nil {
		return nil, err
	}
	var fixtures spec.Fixtures
	if err := json.Unmarshal(embedded.OpenAPIFixtures, &fixtures); err != nil {
		return nil, err
	}
	return server.NewStubServer(&fixtures, &description, false, false)
})

// front stands before stripe-mock and remembers: requests go through
// stripe-mock, and what the intents' states change is changed in its answers.
type front struct {
	t    *testing.T
	mock *server.StubServer

	mu      sync.Mutex
	intents map[string]*intent
	// before and after run around each request, without the lock. A status other
	// than 0 is answered instead, before or after the request had its effect.
	before, after func(operation string) int
	refundStatus  string // what a refund answers with, succeeded by default
}

type intent struct {
	id, status, method string
	meta               map[string]any
	failure            map[string]any // last_payment_error
	refunded           bool
	attempts, charges  int
	refunds            int
}

// declines are Stripe's test tokens, with what their charges fail with.
var declines = map[string][2]string{
	"pm_card_visa_chargeDeclined":                  {"card_declined", "generic_decline"},
	"pm_card_visa_chargeDeclinedInsufficientFunds": {"card_declined", "insufficient_funds"},
	"pm_card_visa_chargeDeclinedStolenCard":        {"card_declined", "stolen_card"},
	"pm_card_chargeDeclinedExpiredCard":            {"expired_card", "expired_card"},
	"pm_card_authenticationRequired":               {"authentication_required", "authentication_required"},
}

func newFront(t *testing.T) (*front, string) {
	t.Helper()
	mock, err := newMock()
	require.NoError(t, err)
	f := &front{t: t, mock: mock, intents: map[string]*intent{}}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return f, srv.URL
}

func (f *front) get(ref string) intent {
	f.mu.Lock()
	defer f.mu.Unlock()
	require.Contains(f.t, f.intents, ref)
	return *f.intents[ref]
}

// set changes an intent as somebody else would.
func (f *front) set(ref string, change func(*intent)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.intents[ref])
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	operation, ref := name(r)
	if f.before != nil {
		if status := f.before(operation); status != 0 {
			fail(w, status, map[string]any{"type": "api_error", "message": "injected before"})
			return
		}
	}
	forwarded := r.Clone(r.Context())
	forwarded.Body = io.NopCloser(bytes.NewReader(body))
	rec := httptest.NewRecorder()
	f.mock.HandleRequest(rec, forwarded)
	if rec.Code != http.StatusOK {
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
		return
	}
	var answer map[string]any
	_ = json.Unmarshal(rec.Body.Bytes(), &answer)
	form, _ := url.ParseQuery(string(body))
	status, answer := f.act(operation, ref, form, answer)
	if f.after != nil {
		if instead := f.after(operation); instead != 0 {
			fail(w, instead, map[string]any{"type": "api_error", "message": "injected after"})
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func fail(w http.ResponseWriter, status int, e map[string]any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": e})
}

// name gives the operation and the intent in a request's path.
func name(r *http.Request) (operation, ref string) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	switch {
	case parts[0] == "refunds":
		return "refund", ""
	case len(parts) == 1:
		return "create", ""
	case len(parts) == 2:
		return "retrieve", parts[1]
	default:
		return parts[2], parts[1] // confirm, cancel
	}
}

// act does what Stripe would, and returns stripe-mock's answer with the states
// of now in it.
func (f *front) act(operation, ref string, form url.Values, answer map[string]any) (int, map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if operation == "refund" {
		ref = form.Get("payment_intent")
	}
	in, ok := f.intents[ref]
	if operation == "create" {
		method := form.Get("payment_method")
		if strings.HasPrefix(method, "unknown") {
			return refusal(http.StatusBadRequest, "invalid_request_error", "resource_missing", "payment_method", nil)
		}
		in = &intent{id: "pi_" + strings.ReplaceAll(f.t.Name(), "/", "_") + string(rune('a'+len(f.intents))), method: method, status: "requires_confirmation", meta: map[string]any{}}
		if method == "" {
			in.status = "requires_payment_method"
		}
		for k, v := range form {
			if name, ok := strings.CutPrefix(k, "metadata["); ok {
				in.meta[strings.TrimSuffix(name, "]")] = v[0]
			}
		}
		f.intents[in.id] = in
	} else if !ok {
		return refusal(http.StatusNotFound, "invalid_request_error", "resource_missing", "intent", nil)
	}
	switch operation {
	case "confirm":
		if in.status != "requires_confirmation" {
			return refusal(http.StatusBadRequest, "invalid_request_error", "payment_intent_unexpected_state", "", in)
		}
		in.attempts++
		if d, ok := declines[in.method]; ok {
			in.status, in.method = "requires_payment_method", ""
			in.failure = map[string]any{"type": "card_error", "code": d[0], "decline_code": d[1], "message": "Your card was declined: " + d[1]}
			return refusal(http.StatusPaymentRequired, "card_error", d[0], "", in)
		}
		in.status = "succeeded"
		in.charges++
	case "cancel":
		if in.status == "succeeded" || in.status == "canceled" || in.status == "processing" {
			return refusal(http.StatusBadRequest, "invalid_request_error", "payment_intent_unexpected_state", "", in)
		}
		in.status = "canceled"
	case "refund":
		if in.refunded {
			return refusal(http.StatusBadRequest, "invalid_request_error", "charge_already_refunded", "", in)
		}
		if f.refundStatus != "" {
			answer["status"] = f.refundStatus
		}
		if f.refundStatus != "failed" {
			in.refunded, in.refunds = true, in.refunds+1
		}
		return http.StatusOK, answer
	}
	return http.StatusOK, overlay(answer, in)
}

func overlay(answer map[string]any, in *intent) map[string]any {
	answer["id"], answer["status"], answer["metadata"], answer["last_payment_error"] = in.id, in.status, in.meta, in.failure
	answer["client_secret"] = in.id + "_secret_hush"
	answer["latest_charge"] = nil
	if in.charges > 0 {
		answer["latest_charge"] = map[string]any{"id": "ch_1", "object": "charge", "refunded": in.refunded}
	}
	return answer
}

func refusal(status int, kind, code, param string, in *intent) (int, map[string]any) {
	e := map[string]any{"type": kind, "code": code, "param": param, "message": "refused: " + code}
	if in != nil {
		e["payment_intent"] = overlay(map[string]any{"object": "payment_intent"}, in)
		if in.failure != nil {
			e["decline_code"] = in.failure["decline_code"]
		}
	}
	return status, map[string]any{"error": e}
}
