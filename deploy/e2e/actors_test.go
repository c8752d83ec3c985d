//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const password = "correct horse battery staple"

// The demo catalogue's fixed ids.
type restaurant struct {
	ID, Name, Currency string
	Open               bool
	Menu               []menuItem
}

type menuItem struct {
	ID, Name  string
	Price     int64
	Available bool
}

type order struct {
	ID              string
	CustomerID      string `json:"customer_id"`
	RestaurantID    string `json:"restaurant_id"`
	Status          string
	Total           int64
	Currency        string
	CancelReason    string    `json:"cancel_reason"`
	CancelCode      string    `json:"cancel_code"`
	PaymentDeadline time.Time `json:"payment_deadline"`
	Items           []struct {
		MenuItemID string `json:"menu_item_id"`
		UnitPrice  int64  `json:"unit_price"`
		LineTotal  int64  `json:"line_total"`
		Quantity   int
	}
}

type timelineEntry struct {
	Seq     int64
	Kind    string
	Detail  map[string]any
	EventID string `json:"event_id"`
}

type payment struct {
	ID, Status  string
	OrderID     string `json:"order_id"`
	Amount      int64
	FailureCode string `json:"failure_code"`
}

type notification struct {
	ID, Kind, Title string
	Seq             int64
	OrderID         string `json:"order_id"`
}

type list[T any] struct {
	Items      []T
	NextCursor string `json:"next_cursor"`
}

type account struct{ ID, Email, Role string }

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// crowd hands the same few accounts to all tests, as registering is limited.
var crowd struct {
	sync.Mutex
	users []actor
	admin *tokens
}

type actor struct {
	account
	tokens
}

// user is a logged-in customer. n tells users apart; tests that compare lists
// register their own with newUser.
func user(t testing.TB, n int) (*client, account) {
	t.Helper()
	crowd.Lock()
	defer crowd.Unlock()
	for len(crowd.users) <= n {
		crowd.users = append(crowd.users, register(t))
	}
	a := crowd.users[n]
	c := anonymous(t)
	c.token = a.Access
	return c, a.account
}

// newUser is a customer that no other test uses.
func newUser(t testing.TB) (*client, actor) {
	t.Helper()
	a := register(t)
	c := anonymous(t)
	c.token = a.Access
	return c, a
}

func register(t testing.TB) actor {
	t.Helper()
	c := anonymous(t)
	email := fmt.Sprintf("e2e-%d-%d@example.com", time.Now().UnixNano(), rand.Uint32())
	a := decode[account](t, c.do("POST", "/auth/register", map[string]any{"email": email, "password": password, "name": "Asha"}), http.StatusCreated)
	return actor{a, login(t, email, password)}
}

func login(t testing.TB, email, password string) tokens {
	t.Helper()
	return decode[tokens](t, anonymous(t).do("POST", "/auth/login", map[string]any{"email": email, "password": password}), http.StatusOK)
}

// admin is the first Admin, made at boot from the environment.
func admin(t testing.TB) *client {
	t.Helper()
	crowd.Lock()
	defer crowd.Unlock()
	if crowd.admin == nil {
		tk := login(t, target.adminEmail, target.adminPassword)
		crowd.admin = &tk
	}
	c := anonymous(t)
	c.token = crowd.admin.Access
	return c
}

// kitchen is the demo catalogue's first restaurant with its menu.
func kitchen(t testing.TB) restaurant {
	t.Helper()
	return decode[restaurant](t, anonymous(t).do("GET", "/restaurants/01900000-0000-7000-8000-000000000001", nil), http.StatusOK)
}

func (r restaurant) item(t testing.TB, available bool) menuItem {
	t.Helper()
	for _, m := range r.Menu {
		if m.Available == available {
			return m
		}
	}
	require.Fail(t, "no such item", "available=%v in %s", available, r.Name)
	return menuItem{}
}

// basket is a valid order of two of one item, paid with method.
func basket(t testing.TB, r restaurant, method string) map[string]any {
	t.Helper()
	return map[string]any{
		"restaurant_id":    r.ID,
		"items":            []map[string]any{{"menu_item_id": r.item(t, true).ID, "quantity": 2}},
		"delivery_address": map[string]any{"line1": "1 Lunch Lane", "city": "Berlin", "postal_code": "10115", "country": "DE"},
		"payment_method":   method,
	}
}

// place orders and returns the pending order.
func (c *client) place(method string) order {
	c.t.Helper()
	o := decode[order](c.t, c.do("POST", "/orders", basket(c.t, kitchen(c.t), method)), http.StatusCreated)
	made.add(o.ID)
	return o
}

func (c *client) order(id string) order {
	c.t.Helper()
	return decode[order](c.t, c.do("GET", "/orders/"+id, nil), http.StatusOK)
}

func (c *client) timeline(id string) []timelineEntry {
	c.t.Helper()
	return decode[list[timelineEntry]](c.t, c.do("GET", "/orders/"+id+"/timeline", nil), http.StatusOK).Items
}

func (c *client) payments(orderID string) []payment {
	c.t.Helper()
	return decode[list[payment]](c.t, c.do("GET", "/payments?order_id="+orderID, nil), http.StatusOK).Items
}

// kinds are an order's notifications by kind, each with how often it came.
func (c *client) kinds(orderID string) map[string]int {
	c.t.Helper()
	found := map[string]int{}
	cursor := ""
	for {
		page := decode[list[notification]](c.t, c.do("GET", "/notifications?limit=100"+cursor, nil), http.StatusOK)
		for _, n := range page.Items {
			if n.OrderID == orderID {
				found[n.Kind]++
			}
		}
		if page.NextCursor == "" {
			return found
		}
		cursor = "&cursor=" + page.NextCursor
	}
}

// waitStatus waits until the order has the status.
func (c *client) waitStatus(id, status string) order {
	c.t.Helper()
	var o order
	eventually(c.t, "order "+id+" to become "+status, func() string {
		if o = c.order(id); o.Status == status {
			return ""
		}
		return "it is " + o.Status
	})
	return o
}

// waitKinds waits for exactly these notifications about the order.
func (c *client) waitKinds(orderID string, want ...string) {
	c.t.Helper()
	expected := map[string]int{}
	for _, k := range want {
		expected[k]++
	}
	eventually(c.t, "notifications", func() string {
		got := c.kinds(orderID)
		if fmt.Sprint(got) == fmt.Sprint(expected) {
			return ""
		}
		return fmt.Sprintf("want %v, have %v", expected, got)
	})
}

// waitPayment waits for the payment's status.
func (c *client) waitPayment(orderID, status string) payment {
	c.t.Helper()
	var found payment
	eventually(c.t, "payment "+status, func() string {
		list := c.payments(orderID)
		if len(list) == 1 && list[0].Status == status {
			found = list[0]
			return ""
		}
		return fmt.Sprintf("%+v", list)
	})
	return found
}

func kindsOf(entries []timelineEntry) []string {
	var kinds []string
	for _, e := range entries {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}
