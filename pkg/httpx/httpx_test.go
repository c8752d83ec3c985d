package httpx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type syncLog struct{ bytes.Buffer }

func setup(t *testing.T, routes func(m *chi.Mux)) (base string, log *syncLog) {
	t.Helper()
	log = &syncLog{}
	m := httpx.NewRouter(slog.New(slog.NewJSONHandler(log, nil)), prometheus.NewRegistry())
	routes(m)
	srv := httptest.NewServer(m)
	t.Cleanup(func() {
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return srv.URL, log
}

func do(t *testing.T, method, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(b)
}

func TestErrorsBecomeProblemsOnce(t *testing.T) {
	t.Parallel()
	secret := errors.New("pq: relation users does not exist at /srv/store.go:12")
	cases := map[string]struct {
		err  error
		want string
	}{
		"domain": {
			fmt.Errorf("cancel: %w", errs.New(errs.Conflict, "already delivered")),
			`{"type":"/problems/conflict","title":"Conflict","status":409,"detail":"already delivered","instance":"/x","request_id":"r1"}`,
		},
		"fields": {
			errs.BadFields(errs.Invalid, errs.Field{Pointer: "/items/0/quantity", Detail: "must be from 1 to 99"}),
			`{"type":"/problems/invalid","title":"Invalid request","status":422,"detail":"the request has a problem; see errors","instance":"/x","request_id":"r1","errors":[{"pointer":"/items/0/quantity","detail":"must be from 1 to 99"}]}`,
		},
		"unknown is bare": {
			secret,
			`{"type":"/problems/internal","title":"Internal error","status":500,"instance":"/x","request_id":"r1"}`,
		},
		"unreachable database": {
			fmt.Errorf("load: %w", &net.OpError{Op: "dial", Err: errors.New("refused")}),
			`{"type":"/problems/upstream","title":"Temporarily unavailable","status":503,"detail":"a part of the system does not answer; try again","instance":"/x","request_id":"r1"}`,
		},
		"database killed while it answers": {
			fmt.Errorf("load: %w", io.ErrUnexpectedEOF),
			`{"type":"/problems/upstream","title":"Temporarily unavailable","status":503,"detail":"a part of the system does not answer; try again","instance":"/x","request_id":"r1"}`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base, log := setup(t, func(m *chi.Mux) {
				m.Get("/x", httpx.Handle(func(http.ResponseWriter, *http.Request) error { return c.err }))
			})
			status, h, body := do(t, "GET", base+"/x", "", "X-Request-ID", "r1")
			require.JSONEq(t, c.want, body)
			require.Equal(t, "application/problem+json", h.Get("Content-Type"))
			require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
			require.Equal(t, "r1", h.Get("X-Request-ID"))
			require.NotContains(t, body, "store.go")
			require.Equal(t, status == 503, h.Get("Retry-After") == "1")
			if status == 500 {
				require.Contains(t, log.String(), "relation users", "the cause is in the log")
			}
		})
	}
}

func TestAPanicIsABare500(t *testing.T) {
	t.Parallel()
	base, log := setup(t, func(m *chi.Mux) {
		m.Get("/x", func(http.ResponseWriter, *http.Request) { panic("boom") })
	})
	status, _, body := do(t, "GET", base+"/x", "")
	require.Equal(t, 500, status)
	require.NotContains(t, body, "boom")
	require.Contains(t, log.String(), "boom")
}

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	base, _ := setup(t, func(m *chi.Mux) {
		nothing := func(http.ResponseWriter, *http.Request) {}
		m.Get("/x", nothing)
		m.Get("/x/{id}", nothing)
		m.Route("/mounted", func(m chi.Router) {
			m.Post("/", nothing)
			m.Get("/", nothing)
			m.Put("/{id}/menu", nothing)
		})
	})
	status, h, _ := do(t, "GET", base+"/y", "")
	require.Equal(t, 404, status)
	require.Equal(t, "application/problem+json", h.Get("Content-Type"))
	for path, allow := range map[string]string{"/x": "GET", "/x/1": "GET", "/mounted": "GET, POST", "/mounted/1/menu": "PUT"} {
		status, h, _ = do(t, "DELETE", base+path, "")
		require.Equal(t, 405, status, path)
		require.Equal(t, allow, h.Get("Allow"), path)
	}
}

func TestRequestIDIsKeptOnlyWhenItIsHarmless(t *testing.T) {
	t.Parallel()
	base, _ := setup(t, func(m *chi.Mux) { m.Get("/x", func(http.ResponseWriter, *http.Request) {}) })
	for _, id := range []string{"a b", strings.Repeat("x", 201), "ä"} {
		_, h, _ := do(t, "GET", base+"/x", "", "X-Request-ID", id)
		_, err := uuid.Parse(h.Get("X-Request-ID"))
		require.NoError(t, err, id)
	}
	_, h, _ := do(t, "GET", base+"/x", "", "X-Request-ID", strings.Repeat("x", 200))
	require.Equal(t, strings.Repeat("x", 200), h.Get("X-Request-ID"))
}

type order struct {
	ID    uuid.UUID `json:"id"`
	Notes string    `json:"notes"`
	Items []struct {
		Quantity int `json:"quantity"`
	} `json:"items"`
}

func TestReadJSONIsStrict(t *testing.T) {
	t.Parallel()
	base, _ := setup(t, func(m *chi.Mux) {
		m.Post("/x", httpx.Handle(func(w http.ResponseWriter, r *http.Request) error {
			o, err := httpx.ReadJSON[order](w, r)
			if err != nil {
				return err
			}
			return httpx.WriteJSON(w, 200, o)
		}))
	})
	_, _, body := do(t, "POST", base+"/x", `{"notes":"Fish & <Chips>"}`)
	require.Contains(t, body, `"notes":"Fish & <Chips>"`, "as people read it")
	cases := map[string]struct {
		body    string
		status  int
		pointer string
		detail  string
	}{
		"good":            {`{"notes":"hi","items":[{"quantity":1}]}`, 200, "", ""},
		"no JSON":         {`{"notes":`, 400, "", "not valid JSON"},
		"empty":           {` `, 400, "", "empty"},
		"array":           {`[]`, 400, "", "must be a JSON object"},
		"null":            {`null`, 400, "", "must be a JSON object"},
		"trailing data":   {`{} {}`, 400, "", "after the JSON value"},
		"unknown field":   {`{"items":[{"quantity":1,"price":0}]}`, 400, "/items/0/price", "unknown field"},
		"case matters":    {`{"Notes":"x"}`, 400, "/Notes", "unknown field"},
		"twice":           {`{"notes":"a","notes":"b"}`, 400, "/notes", "twice"},
		"string for int":  {`{"items":[{"quantity":1},{"quantity":"2"}]}`, 400, "/items/1/quantity", "whole number"},
		"fraction":        {`{"items":[{"quantity":1.5}]}`, 400, "/items/0/quantity", "whole number"},
		"huge number":     {`{"items":[{"quantity":1e400}]}`, 400, "/items/0/quantity", "whole number"},
		"beyond int64":    {`{"items":[{"quantity":99999999999999999999}]}`, 400, "/items/0/quantity", "whole number"},
		"object":          {`{"items":{}}`, 400, "/items", "array"},
		"no UUID":         {`{"id":"42"}`, 400, "/id", "UUID"},
		"UUID as a URN":   {`{"id":"urn:uuid:01900000-0000-7000-8000-000000000001"}`, 400, "/id", "UUID"},
		"UUID unhyphened": {`{"id":"01900000000070008000000000000001"}`, 400, "/id", "UUID"},
		"UUID a number":   {`{"id":42}`, 400, "/id", "must be a string"},
		"good UUID":       {`{"id":"01900000-0000-7000-8000-00000000000A"}`, 200, "", ""},
		"invalid UTF-8":   {"{\"notes\":\"\xff\"}", 400, "", "UTF-8"},
		"lone surrogate":  {`{"notes":"\ud800"}`, 400, "", "surrogate"},
		"33 levels":       {`{"items":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, 400, "", "nests deeper"},
		"100k levels":     {strings.Repeat("[", 100_000), 400, "", "nests deeper"},
		"too large":       {`{"notes":"` + strings.Repeat("x", httpx.MaxBody) + `"}`, 413, "", "at most"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, _, body := do(t, "POST", base+"/x", c.body)
			require.Equal(t, c.status, status, body)
			if c.status == 200 {
				return
			}
			var p struct {
				Detail string
				Errors []struct{ Pointer, Detail string }
			}
			require.NoError(t, json.Unmarshal([]byte(body), &p))
			if c.pointer != "" {
				require.Len(t, p.Errors, 1, body)
				require.Equal(t, c.pointer, p.Errors[0].Pointer)
				p.Detail = p.Errors[0].Detail
			}
			require.Contains(t, p.Detail, c.detail)
		})
	}
	t.Run("media types", func(t *testing.T) {
		t.Parallel()
		for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", ";"} {
			status, _, _ := do(t, "POST", base+"/x", `{}`, "Content-Type", media)
			require.Equal(t, 415, status, media)
		}
		status, _, _ := do(t, "POST", base+"/x", `{}`, "Content-Type", "application/json; charset=UTF-8")
		require.Equal(t, 200, status)
		for _, encoding := range []string{"gzip", "identity"} {
			status, _, _ = do(t, "POST", base+"/x", `{}`, "Content-Encoding", encoding)
			require.Equal(t, 415, status, encoding)
		}
	})
}

func TestPagesAndIDs(t *testing.T) {
	t.Parallel()
	known := uuid.Must(uuid.NewV7())
	base, _ := setup(t, func(m *chi.Mux) {
		m.Get("/list", httpx.Handle(func(w http.ResponseWriter, r *http.Request) error {
			p, err := httpx.ReadPage(r)
			if err != nil {
				return err
			}
			before, err := p.BeforeSeq()
			if err != nil {
				return err
			}
			if _, _, err := httpx.QueryID(r, "order_id"); err != nil {
				return err
			}
			var items []int
			for i := range p.Limit + 1 {
				items = append(items, int(before)+i+1)
			}
			return httpx.WriteJSON(w, 200, httpx.NewList(items, p.Limit, func(i int) string { return fmt.Sprint(i) }))
		}))
		m.Get("/one/{id}", httpx.Handle(func(w http.ResponseWriter, r *http.Request) error {
			id, err := httpx.PathID(r, "id")
			if err != nil {
				return err
			}
			return httpx.WriteJSON(w, 200, id)
		}))
		m.Post("/empty", httpx.Handle(func(w http.ResponseWriter, r *http.Request) error {
			if err := httpx.NoBody(r); err != nil {
				return err
			}
			return httpx.WriteJSON(w, 200, struct{}{})
		}))
	})
	_, _, body := do(t, "GET", base+"/list?limit=2", "")
	require.JSONEq(t, `{"items":[1,2],"next_cursor":"Mg"}`, body)
	_, _, body = do(t, "GET", base+"/list?limit=2&cursor=Mg", "")
	require.JSONEq(t, `{"items":[3,4],"next_cursor":"NA"}`, body)
	for _, q := range []string{"limit=0", "limit=101", "limit=", "limit=1.0", "limit=-1", "cursor=!", "cursor=Mh", "cursor=LTE", "cursor=" + strings.Repeat("A", 600), "order_id=", "order_id=42", "order_id={" + known.String() + "}"} {
		status, _, body := do(t, "GET", base+"/list?"+q, "")
		require.Equal(t, 400, status, q+body)
	}
	status, _, _ := do(t, "GET", base+"/one/"+known.String(), "")
	require.Equal(t, 200, status)
	for _, id := range []string{"42", "urn:uuid:" + known.String(), strings.ReplaceAll(known.String(), "-", "")} {
		status, _, _ := do(t, "GET", base+"/one/"+id, "")
		require.Equal(t, 404, status, id)
	}
	status, _, _ = do(t, "POST", base+"/empty", "")
	require.Equal(t, 200, status)
	status, _, _ = do(t, "POST", base+"/empty", "{}")
	require.Equal(t, 400, status)
}

func TestFollowSendsWhatIsNewAtEachWakeAndEndsAtShutdown(t *testing.T) {
	t.Parallel()
	wake := make(chan struct{}, 1)
	values := make(chan int, 10)
	m := httpx.NewRouter(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	m.Get("/stream", httpx.Handle(func(w http.ResponseWriter, r *http.Request) error {
		last, err := httpx.LastEventID(r)
		if err != nil {
			return err
		}
		return httpx.Follow(w, r, wake, func(_ context.Context, s *httpx.Stream) error {
			for {
				select {
				case v := <-values:
					last++
					if err := s.Send(last, "number", v); err != nil {
						return err
					}
				default:
					return nil
				}
			}
		})
	}))
	l, err := httpx.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- httpx.ServeListener(ctx, l, m, slog.New(slog.DiscardHandler)) }()

	status, _, _ := do(t, "GET", "http://"+l.Addr().String()+"/stream", "", "Last-Event-ID", "x")
	require.Equal(t, 400, status)

	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String()+"/stream", nil)
	require.NoError(t, err)
	req.Header.Set("Last-Event-ID", "41")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	values <- 7
	wake <- struct{}{}
	lines := bufio.NewScanner(resp.Body)
	var got []string
	for lines.Scan() && len(got) < 5 {
		if s := lines.Text(); s != "" {
			got = append(got, s)
		}
		if len(got) == 4 {
			break
		}
	}
	require.Equal(t, []string{": stream", "id: 42", "event: number", "data: 7"}, got)

	start := time.Now()
	stop()
	require.NoError(t, <-served)
	require.Less(t, time.Since(start), 5*time.Second, "an open stream does not hold the shutdown up")
	http.DefaultClient.CloseIdleConnections()
}

func TestABusyPortIsNamed(t *testing.T) {
	t.Parallel()
	l, err := httpx.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	err = httpx.Serve(t.Context(), l.Addr().String(), http.NotFoundHandler(), slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, l.Addr().String())
	require.ErrorContains(t, err, "HTTP_ADDR")
}
