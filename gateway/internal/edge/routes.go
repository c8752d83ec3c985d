package edge

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Service names what answers a route.
type Service string

// The services behind the gateway; Self is the gateway.
const (
	Self         Service = "gateway"
	Auth         Service = "auth"
	Order        Service = "order"
	Payment      Service = "payment"
	Notification Service = "notification"
)

// access is who may use a part of the path space.
type access int

const (
	public access = iota
	user
	admin
)

// Route is one method of one path. Patterns are spelled as in chi and OpenAPI.
type Route struct {
	Method, Pattern string
	Service         Service

	login      bool          // counts against the address's limit for log-ins too
	stream     bool          // server-sent events: no time limit after the head
	noStore    bool          // the answer holds tokens
	idempotent bool          // takes Idempotency-Key
	timeout    time.Duration // for the whole answer, or a stream's head
}

// Routes returns every route of the API, each with the time that its service
// may take.
func Routes(timeout time.Duration) []Route {
	get, post, put, del := http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	routes := []Route{
		{Method: post, Pattern: "/auth/register", Service: Auth, login: true, noStore: true},
		{Method: post, Pattern: "/auth/login", Service: Auth, login: true, noStore: true},
		{Method: post, Pattern: "/auth/refresh", Service: Auth, noStore: true},
		{Method: post, Pattern: "/auth/logout", Service: Auth, noStore: true},
		{Method: get, Pattern: "/auth/me", Service: Auth, noStore: true},
		{Method: post, Pattern: "/auth/password", Service: Auth, login: true, noStore: true},
		{Method: get, Pattern: "/auth/sessions", Service: Auth, noStore: true},
		{Method: del, Pattern: "/auth/sessions/{id}", Service: Auth, noStore: true},
		{Method: get, Pattern: "/.well-known/jwks.json", Service: Auth},
		{Method: get, Pattern: "/openapi.json", Service: Self},

		{Method: get, Pattern: "/restaurants", Service: Order},
		{Method: get, Pattern: "/restaurants/{id}", Service: Order},
		{Method: post, Pattern: "/orders", Service: Order, idempotent: true},
		{Method: get, Pattern: "/orders", Service: Order},
		{Method: get, Pattern: "/orders/{id}", Service: Order},
		{Method: get, Pattern: "/orders/{id}/timeline", Service: Order},
		{Method: get, Pattern: "/orders/{id}/events", Service: Order, stream: true},
		{Method: post, Pattern: "/orders/{id}/cancel", Service: Order},

		{Method: get, Pattern: "/payments", Service: Payment},
		{Method: get, Pattern: "/payments/{id}", Service: Payment},

		{Method: get, Pattern: "/notifications", Service: Notification},
		{Method: get, Pattern: "/notifications/stream", Service: Notification, stream: true},
		{Method: post, Pattern: "/notifications/{id}/read", Service: Notification},

		{Method: get, Pattern: "/admin/users", Service: Auth},
		{Method: put, Pattern: "/admin/users/{id}/role", Service: Auth},
		{Method: get, Pattern: "/admin/orders", Service: Order},
		{Method: post, Pattern: "/admin/orders/{id}/status", Service: Order},
		{Method: post, Pattern: "/admin/restaurants", Service: Order},
		{Method: put, Pattern: "/admin/restaurants/{id}", Service: Order},
		{Method: put, Pattern: "/admin/restaurants/{id}/menu", Service: Order},
	}
	for i := range routes {
		routes[i].timeout = timeout
	}
	return routes
}

// areas are the parts of the path space. Who may see them is decided by the
// path alone, before it is known whether there is a route: the longest prefix,
// in whole segments, counts. A path in none of them is unknown to everybody.
var areas = []struct {
	prefix string
	access access
}{
	{"/auth/me", user},
	{"/auth/password", user},
	{"/auth/sessions", user},
	{"/auth", public},
	{"/.well-known", public},
	{"/openapi.json", public},
	{"/restaurants", public},
	{"/orders", user},
	{"/payments", user},
	{"/notifications", user},
	{"/admin", admin},
}

// areaOf returns who may use the path; false when its prefix is unknown.
func areaOf(path string) (access, bool) {
	for _, a := range areas { // longer prefixes stand before shorter ones
		if rest, ok := strings.CutPrefix(path, a.prefix); ok && (rest == "" || rest[0] == '/') {
			return a.access, true
		}
	}
	return 0, false
}

// table finds the routes of a path.
type table map[string][]*entry // by first segment

// entry is one pattern with its methods.
type entry struct {
	pattern  string
	segments []string // "" stands for a parameter
	methods  map[string]*Route
	allow    string
}

func newTable(routes []Route) table {
	t := table{}
	for i := range routes {
		r := &routes[i]
		segments := strings.Split(r.Pattern[1:], "/")
		first := segments[0]
		at := slices.IndexFunc(t[first], func(e *entry) bool { return e.pattern == r.Pattern })
		if at < 0 {
			for j, s := range segments {
				if strings.HasPrefix(s, "{") {
					segments[j] = ""
				}
			}
			t[first] = append(t[first], &entry{pattern: r.Pattern, segments: segments, methods: map[string]*Route{}})
			at = len(t[first]) - 1
		}
		e := t[first][at]
		e.methods[r.Method] = r
		if r.Method == http.MethodGet && !r.stream {
			e.methods[http.MethodHead] = r // answered from the GET
		}
		e.allow = ""
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if e.methods[m] != nil {
				if e.allow != "" {
					e.allow += ", "
				}
				e.allow += m
			}
		}
	}
	return t
}

// find returns the entry of a canonical path, nil when there is none.
func (t table) find(path string) *entry {
	rest := path[1:]
	first, _, _ := strings.Cut(rest, "/")
	for _, e := range t[first] {
		if e.matches(rest) {
			return e
		}
	}
	return nil
}

func (e *entry) matches(rest string) bool {
	for i, want := range e.segments {
		segment, tail, more := strings.Cut(rest, "/")
		if more != (i < len(e.segments)-1) || segment == "" || (want != "" && want != segment) {
			return false
		}
		rest = tail
	}
	return true
}
