package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/notification-service/internal/api"
	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/httpx/httpxtest"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// replica is one instance of the service behind its routes.
type replica struct {
	t    *testing.T
	base string
	svc  *notification.Service
	db   *outbox.DB
}

func setup(t *testing.T) (replica, *authntest.Issuer) {
	t.Helper()
	issuer := authntest.New(t)
	return start(t, pgtest.URL(t, notification.Migrations), issuer, notification.NewLog(quiet)), issuer
}

// start runs an instance on the database, with its doorbell connected.
func start(t *testing.T, url string, issuer *authntest.Issuer, channel notification.Channel) replica {
	t.Helper()
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: url, MaxConns: 10})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	bell := postgres.NewDoorbell(pool, quiet)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- bell.Run(ctx) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	db := outbox.NewDB(pool, bell)
	svc := notification.NewService(db, bell, channel)
	srv := httptest.NewServer(api.Routes(svc, issuer.Verifier(), quiet, prometheus.NewRegistry()))
	t.Cleanup(srv.Close)
	return replica{t, srv.URL, svc, db}
}

// tell stores a notification for user and returns what the API shows of it.
func (r replica) tell(user uuid.UUID) map[string]any {
	r.t.Helper()
	p := event.PaymentCompleted{OrderID: uuid.Must(uuid.NewV7()), CustomerID: user, Amount: 1900, Currency: "EUR"}
	e := event.New("test", p)
	n, err := notification.OfPaymentCompleted(p)
	require.NoError(r.t, err)
	require.NoError(r.t, r.db.InTx(r.t.Context(), func(tx *outbox.Tx) error { return r.svc.Notify(r.t.Context(), tx, e, n) }))
	var id uuid.UUID
	var at time.Time
	require.NoError(r.t, r.db.Pool.QueryRow(r.t.Context(), `select id, created_at from notifications where event_id = $1`, e.ID).Scan(&id, &at))
	return map[string]any{
		"id": id.String(), "kind": "payment_completed", "order_id": p.OrderID.String(), "title": "Payment received",
		"body": n.Body, "created_at": at.UTC().Format(time.RFC3339Nano),
	}
}

func (r replica) do(method, path, token string, header ...string) (int, http.Header, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, nil)
	require.NoError(r.t, err)
	req.Header.Set("X-Request-ID", "req-1")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, resp.Header, string(body)
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

func newUser() uuid.UUID { return uuid.Must(uuid.NewV7()) }

func TestListsShowEveryNotificationOnceNewestFirst(t *testing.T) {
	t.Parallel()
	r, issuer := setup(t)
	user := newUser()
	token := issuer.Token(user, authn.Customer)
	r.tell(newUser()) // somebody else's
	want := make([]map[string]any, 5)
	for i := range want {
		want[i] = r.tell(user)
		want[i]["seq"] = i + 1
	}

	status, header, body := r.do("GET", "/notifications", token)
	require.Equal(t, 200, status, body)
	require.Equal(t, "application/json", header.Get("Content-Type"))
	require.JSONEq(t, encode(t, map[string]any{"items": []any{want[4], want[3], want[2], want[1], want[0]}}), body)

	path, seen := "/notifications?limit=2", []any{}
	for range 3 {
		status, _, body = r.do("GET", path, token)
		require.Equal(t, 200, status, body)
		var page struct {
			Items      []any
			NextCursor string `json:"next_cursor"`
		}
		require.NoError(t, json.Unmarshal([]byte(body), &page))
		seen = append(seen, page.Items...)
		path = "/notifications?limit=2&cursor=" + page.NextCursor
	}
	require.JSONEq(t, encode(t, []any{want[4], want[3], want[2], want[1], want[0]}), encode(t, seen))
	require.NotContains(t, body, "next_cursor")

	status, _, body = r.do("GET", "/notifications", issuer.Token(newUser(), authn.Admin))
	require.Equal(t, 200, status)
	require.JSONEq(t, `{"items": []}`, body, "an Admin sees the Admin's own")
}

func TestReadingIsIdempotentAndOnlyForTheOwner(t *testing.T) {
	t.Parallel()
	r, issuer := setup(t)
	user := newUser()
	token := issuer.Token(user, authn.Customer)
	first, second := r.tell(user), r.tell(user)
	first["seq"], second["seq"] = 1, 2
	path := fmt.Sprintf("/notifications/%s/read", first["id"])

	for range 2 {
		status, _, body := r.do("POST", path, token)
		require.Equal(t, 204, status, body)
		require.Empty(t, body)
	}
	status, _, body := r.do("GET", "/notifications?unread=true", token)
	require.Equal(t, 200, status)
	require.JSONEq(t, encode(t, map[string]any{"items": []any{second}}), body)

	var at time.Time
	require.NoError(t, r.db.Pool.QueryRow(t.Context(), `select read_at from notifications where id = $1`, first["id"]).Scan(&at))
	first["read_at"] = at.UTC().Format(time.RFC3339Nano)
	status, _, body = r.do("GET", "/notifications?unread=false", token)
	require.Equal(t, 200, status)
	require.JSONEq(t, encode(t, map[string]any{"items": []any{second, first}}), body)

	notFound := `{"type":"/problems/not_found","title":"Not found","status":404,"detail":"there is no notification with this id","instance":"%s","request_id":"req-1"}`
	status, header, body := r.do("POST", path, issuer.Token(newUser(), authn.Admin))
	require.Equal(t, 404, status)
	require.Equal(t, "application/problem+json", header.Get("Content-Type"))
	require.JSONEq(t, fmt.Sprintf(notFound, path), body)
	path = "/notifications/" + newUser().String() + "/read"
	status, _, body = r.do("POST", path, token)
	require.Equal(t, 404, status)
	require.JSONEq(t, fmt.Sprintf(notFound, path), body)
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	r, issuer := setup(t)
	token := issuer.Token(newUser(), authn.Customer)
	for _, tt := range []struct {
		method, path, token string
		status              int
		detail              string
	}{
		{"GET", "/notifications", "", 401, "send an access token"},
		{"GET", "/notifications/stream", "", 401, "send an access token"},
		{"GET", "/notifications", "x.y.z", 401, ""},
		{"GET", "/notifications?limit=0", token, 400, "limit"},
		{"GET", "/notifications?limit=101", token, 400, "limit"},
		{"GET", "/notifications?limit=x", token, 400, "limit"},
		{"GET", "/notifications?cursor=!!", token, 400, "cursor"},
		{"GET", "/notifications?cursor=eA", token, 400, "cursor"},
		{"GET", "/notifications?cursor=LTE", token, 400, "cursor"}, // -1
		{"GET", "/notifications?unread=yes", token, 400, "unread must be true or false"},
		{"GET", "/notifications?unread=", token, 400, "unread must be true or false"},
		{"POST", "/notifications/42/read", token, 404, ""},
		{"POST", "/notifications/{0190}/read", token, 404, ""},
		{"DELETE", "/notifications", "", 401, ""}, // the token comes before path and method
		{"GET", "/notifications/nothing/here", "", 401, ""},
		{"DELETE", "/notifications", token, 405, ""},
		{"GET", "/notifications/nothing/here", token, 404, ""},
	} {
		status, header, body := r.do(tt.method, tt.path, tt.token)
		require.Equal(t, tt.status, status, "%s %s: %s", tt.method, tt.path, body)
		require.Equal(t, "application/problem+json", header.Get("Content-Type"), tt.path)
		require.Contains(t, body, tt.detail, tt.path)
	}
	for _, last := range []string{"x", "-1", "1.5", "99999999999999999999"} {
		status, _, body := r.do("GET", "/notifications/stream", token, "Last-Event-ID", last)
		require.Equal(t, 400, status, last)
		require.Contains(t, body, "Last-Event-ID")
	}
	resp, err := http.DefaultClient.Do(request(t, "POST", r.base+"/notifications/"+newUser().String()+"/read", token, strings.NewReader(`{}`)))
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 400, resp.StatusCode, "a body where none belongs")
}

func request(t *testing.T, method, url, token string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	return req
}

// frame is one server-sent event.
type frame struct{ id, event, data string }

// listen opens a stream and sends its events to the channel until the stream or
// the test ends.
func (r replica) listen(ctx context.Context, token, last string) <-chan frame {
	r.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", r.base+"/notifications/stream", nil)
	require.NoError(r.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(r.t, err)
	require.Equal(r.t, 200, resp.StatusCode)
	require.Equal(r.t, "text/event-stream", resp.Header.Get("Content-Type"))
	frames := make(chan frame, 1000)
	go func() {
		defer close(frames)
		defer resp.Body.Close()
		var f frame
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			name, value, _ := strings.Cut(s.Text(), ": ")
			switch {
			case s.Text() == "":
				if f.event != "" {
					frames <- f
				}
				f = frame{}
			case name == "id":
				f.id = value
			case name == "event":
				f.event = value
			case name == "data":
				f.data = value
			}
		}
	}()
	return frames
}

func next(t *testing.T, frames <-chan frame) frame {
	t.Helper()
	select {
	case f, ok := <-frames:
		require.True(t, ok, "the stream ended")
		return f
	case <-time.After(10 * time.Second):
		require.Fail(t, "nothing came")
		return frame{}
	}
}

func TestAStreamTellsWhatHappensOnAnyReplica(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	url := pgtest.URL(t, notification.Migrations)
	a, b := start(t, url, issuer, notification.NewLog(quiet)), start(t, url, issuer, notification.NewLog(quiet))
	user := newUser()
	token := issuer.Token(user, authn.Customer)
	before := a.tell(user)
	before["seq"] = 1

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	onA, onB := a.listen(ctx, token, ""), b.listen(ctx, token, "1")
	got := next(t, onA)
	require.Equal(t, frame{"1", "notification", got.data}, got)
	require.JSONEq(t, encode(t, before), got.data)

	during := b.tell(user)
	during["seq"] = 2
	for _, frames := range []<-chan frame{onA, onB} {
		got := next(t, frames)
		require.Equal(t, "2", got.id)
		require.JSONEq(t, encode(t, during), got.data)
	}
	select {
	case f := <-onA:
		require.Fail(t, "sent twice", f)
	case <-time.After(1200 * time.Millisecond): // one poll further
	}
}

func TestStreamsOfTwoReplicasMissNothingWhileBothWrite(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	url := pgtest.URL(t, notification.Migrations)
	replicas := []replica{start(t, url, issuer, notification.NewLog(quiet)), start(t, url, issuer, notification.NewLog(quiet))}
	user := newUser()
	token := issuer.Token(user, authn.Customer)
	const writers, each = 4, 20
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	streams := []<-chan frame{replicas[0].listen(ctx, token, ""), replicas[1].listen(ctx, token, "")}

	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				replicas[w%2].tell(user)
			}
		})
	}
	// One more client loses its connection after every few events.
	resumed, last := []string{}, ""
	for len(resumed) < writers*each {
		ctx, cancel := context.WithCancel(t.Context())
		frames := replicas[len(resumed)%2].listen(ctx, token, last)
		for range 7 {
			if len(resumed) < writers*each {
				last = next(t, frames).id
				resumed = append(resumed, last)
			}
		}
		cancel()
	}
	wg.Wait()
	want := make([]string, writers*each)
	for i := range want {
		want[i] = fmt.Sprint(i + 1)
	}
	require.Equal(t, want, resumed)
	for _, frames := range streams {
		got := make([]string, writers*each)
		for i := range got {
			got[i] = next(t, frames).id
		}
		require.Equal(t, want, got)
	}
}

func TestAStreamEndsWithItsToken(t *testing.T) {
	t.Parallel()
	r, issuer := setup(t)
	claims := issuer.Claims(newUser(), authn.Customer)
	claims.Expires = time.Now().Add(2 * time.Second).Unix()
	frames := r.listen(t.Context(), issuer.Mint(claims), "")
	select {
	case f, open := <-frames:
		require.False(t, open, f)
	case <-time.After(10 * time.Second):
		require.Fail(t, "the stream outlives its token")
	}
}

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	r, issuer := setup(t)
	issuer.RequireRefused(t, r.base+"/notifications")
}

func TestNoPathLeadsAroundTheToken(t *testing.T) {
	t.Parallel()
	r, _ := setup(t)
	httpxtest.RequireNoWayAround(t, strings.TrimPrefix(r.base, "http://"), "", "/nothing", "/notifications")
}
