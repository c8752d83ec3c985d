package main

import (
	"net/http"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/gateway/internal/edge"
)

func load(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openAPI)
	require.NoError(t, err)
	return doc
}

func TestTheDescriptionIsValidOpenAPI31(t *testing.T) {
	t.Parallel()
	doc := load(t)
	require.Regexp(t, `^3\.1\.`, doc.OpenAPI)
	require.NoError(t, doc.Validate(t.Context()))
}

func TestTheDescriptionHasExactlyTheRoutes(t *testing.T) {
	t.Parallel()
	var described, routed []string
	for path, item := range load(t).Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	for _, r := range edge.Routes(time.Second) {
		routed = append(routed, r.Method+" "+r.Pattern)
	}
	sort.Strings(described)
	sort.Strings(routed)
	require.Equal(t, routed, described)
}

// The list of the contract, so that a route cannot get lost in both places.
func TestEveryPromisedRouteIsThere(t *testing.T) {
	t.Parallel()
	doc := load(t)
	for _, line := range strings.Split(strings.TrimSpace(`
POST /auth/register /auth/login /auth/refresh /auth/logout /auth/password
GET /auth/me /auth/sessions /.well-known/jwks.json /openapi.json
DELETE /auth/sessions/{id}
GET /restaurants /restaurants/{id} /orders /orders/{id} /orders/{id}/timeline /orders/{id}/events
POST /orders /orders/{id}/cancel
GET /payments /payments/{id} /notifications /notifications/stream
POST /notifications/{id}/read
GET /admin/users /admin/orders
PUT /admin/users/{id}/role /admin/restaurants/{id} /admin/restaurants/{id}/menu
POST /admin/orders/{id}/status /admin/restaurants`), "\n") {
		method, paths, _ := strings.Cut(line, " ")
		for _, path := range strings.Fields(paths) {
			item := doc.Paths.Value(path)
			require.NotNil(t, item, path)
			require.NotNil(t, item.GetOperation(method), line)
		}
	}
}

func TestEveryOperationTellsItsRefusals(t *testing.T) {
	t.Parallel()
	doc := load(t)
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			require.NotEmpty(t, op.Summary, name)
			require.False(t, ids[op.OperationID], "operationId %s twice", op.OperationID)
			ids[op.OperationID] = true
			want := []string{"400", "429", "431", "default"}
			open := op.Security != nil && len(*op.Security) == 0
			if !open {
				want = append(want, "401")
			}
			if strings.HasPrefix(path, "/admin/") {
				want = append(want, "403")
				require.Equal(t, "Admin", op.Extensions["x-role"], name)
			}
			if strings.Contains(path, "{id}") {
				want = append(want, "404")
			}
			if op.RequestBody != nil {
				want = append(want, "413", "415", "422")
				require.True(t, op.RequestBody.Value.Required, name)
				schema := op.RequestBody.Value.Content.Get("application/json").Schema.Value
				require.NotNil(t, schema.AdditionalProperties.Has, name)
				require.False(t, *schema.AdditionalProperties.Has, "%s: unknown fields are refused", name)
			}
			for _, status := range want {
				resp := op.Responses.Value(status)
				require.NotNil(t, resp, "%s: %s", name, status)
				require.NotNil(t, resp.Value.Content.Get("application/problem+json"), "%s: %s", name, status)
			}
			for status, resp := range op.Responses.Map() {
				require.Contains(t, resp.Value.Headers, "X-Request-ID", "%s: %s", name, status)
			}
		}
	}
	require.True(t, ids["placeOrder"])
	stream := doc.Paths.Value("/orders/{id}/events").GetOperation(http.MethodGet).Responses.Value("200").Value
	require.NotNil(t, stream.Content.Get("text/event-stream"))
}
