//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait; what it waits for takes milliseconds when all is
// well and some seconds after a kill.
const patience = 90 * time.Second

// answer is what came back, read to its end.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// client is one user's way into the platform. Every exchange it makes is held
// against the published OpenAPI description.
type client struct {
	t     testing.TB
	base  string
	token string
	http  *http.Client
}

var httpClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func anonymous(t testing.TB) *client {
	return &client{t: t, base: target.base, http: httpClient}
}

// description is the API's OpenAPI document as the gateway serves it.
var description = sync.OnceValues(func() (validator.Validator, error) {
	resp, err := httpClient.Get(target.base + "/openapi.json")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	doc, err := libopenapi.NewDocument(body)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		return nil, fmt.Errorf("openapi.json: %v", errs)
	}
	return v, nil
})

// do sends one request and returns the answer. It waits out 429, and checks the
// request (when it was accepted) and the answer against the description.
func (c *client) do(method, path string, body any, header ...string) answer {
	c.t.Helper()
	var raw []byte
	switch b := body.(type) {
	case nil:
	case string:
		raw = []byte(b)
	default:
		var err error
		raw, err = json.Marshal(body)
		require.NoError(c.t, err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		req := c.request(c.t.Context(), method, path, raw, header...)
		resp, err := c.http.Do(req)
		require.NoError(c.t, err, "%s %s", method, path)
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(c.t, err, "%s %s", method, path)
		if resp.StatusCode == http.StatusTooManyRequests && time.Now().Before(deadline) {
			seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			require.NoError(c.t, err, "429 carries Retry-After in whole seconds")
			pause(c.t, time.Duration(seconds)*time.Second)
			continue
		}
		a := answer{resp.StatusCode, resp.Header, got}
		c.check(req, raw, a)
		return a
	}
}

func (c *client) request(ctx context.Context, method, path string, raw []byte, header ...string) *http.Request {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(raw))
	require.NoError(c.t, err)
	if len(raw) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// check holds the exchange against the description. Refused requests may well
// break it, their answers may not.
func (c *client) check(req *http.Request, raw []byte, a answer) {
	c.t.Helper()
	v, err := description()
	require.NoError(c.t, err)
	rebuilt := req.Clone(req.Context())
	rebuilt.Body = io.NopCloser(bytes.NewReader(raw))
	if a.Status < 300 {
		ok, errs := v.ValidateHttpRequest(rebuilt)
		require.True(c.t, ok, "%s %s was accepted but breaks openapi.json: %s", req.Method, req.URL.Path, reasons(errs))
		rebuilt.Body = io.NopCloser(bytes.NewReader(raw))
	}
	if a.Status == http.StatusNotFound || a.Status == http.StatusMethodNotAllowed {
		return // may be about a path that the description does not have
	}
	resp := &http.Response{StatusCode: a.Status, Header: a.Header, Body: io.NopCloser(bytes.NewReader(a.Body)), Request: rebuilt}
	ok, errs := v.ValidateHttpResponse(rebuilt, resp)
	require.True(c.t, ok, "the answer to %s %s breaks openapi.json: %s\n%d %s", req.Method, req.URL.Path, reasons(errs), a.Status, a.Body)
}

// pause waits for a duration that the server asked for.
func pause(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		require.NoError(t, t.Context().Err())
	}
}

// decode reads a JSON answer of the wanted status.
func decode[T any](t testing.TB, a answer, status int) T {
	t.Helper()
	require.Equal(t, status, a.Status, string(a.Body))
	var v T
	require.NoError(t, json.Unmarshal(a.Body, &v), string(a.Body))
	return v
}

// problem is an RFC 9457 answer.
type problem struct {
	Type      string
	Status    int
	Detail    string
	RequestID string `json:"request_id"`
	Errors    []struct{ Pointer, Detail string }
}

// refused requires a problem of the status.
func refused(t testing.TB, a answer, status int) problem {
	t.Helper()
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), string(a.Body))
	p := decode[problem](t, a, status)
	require.Equal(t, status, p.Status)
	require.Equal(t, a.Header.Get("X-Request-ID"), p.RequestID)
	return p
}

// eventually waits until ok returns "", else fails with what it last returned.
func eventually(t testing.TB, what string, ok func() string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := ok()
		if missing == "" {
			return
		}
		select {
		case <-deadline.C:
			require.Fail(t, "timed out waiting for "+what, missing)
		case <-tick.C:
		}
	}
}

// streamed is one server-sent event.
type streamed struct{ ID, Event, Data string }

// stream reads server-sent events until enough returns true for one.
func (c *client) stream(path, lastID string, enough func(streamed) bool) []streamed {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	req := c.request(ctx, http.MethodGet, path, nil)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := (&http.Client{Transport: httpClient.Transport}).Do(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	require.Equal(c.t, http.StatusOK, resp.StatusCode)
	require.Equal(c.t, "text/event-stream", resp.Header.Get("Content-Type"))
	var all []streamed
	var now streamed
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			now.ID = value
		case "event":
			now.Event = value
		case "data":
			now.Data = value
		case "":
			if now.Event != "" {
				all = append(all, now)
				if enough(now) {
					return all
				}
			}
			now = streamed{}
		}
	}
	require.Fail(c.t, "the stream ended early", "%v: %v", lines.Err(), all)
	return nil
}

// reasons puts the validator's findings on one line each.
func reasons(list []*errors.ValidationError) string {
	var s []string
	for _, e := range list {
		s = append(s, e.Message+": "+e.Reason)
		for _, d := range e.SchemaValidationErrors {
			s = append(s, d.Reason)
		}
	}
	return strings.Join(s, "\n")
}
