//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// Every bad order is refused with a problem that says what is wrong where, and
// stores nothing.
func TestBadOrdersAreRefusedAndStoreNothing(t *testing.T) {
	t.Parallel()
	c, _ := newUser(t)
	r := kitchen(t)
	item := r.item(t, true).ID
	var foreign string
	for _, other := range decode[list[restaurant]](t, c.do("GET", "/restaurants", nil), http.StatusOK).Items {
		menu := decode[restaurant](t, c.do("GET", "/restaurants/"+other.ID, nil), http.StatusOK).Menu
		if other.ID != r.ID && len(menu) > 0 {
			foreign = menu[0].ID
		}
	}
	require.NotEmpty(t, foreign, "another restaurant with a menu")
	closed := decode[restaurant](t, admin(t).do("POST", "/admin/restaurants", map[string]any{"name": "Closed " + uuid.NewString(), "cuisine": "none", "address": "1 Nowhere", "open": false, "currency": "EUR"}), http.StatusCreated)

	items := func(list ...map[string]any) func(map[string]any) {
		return func(b map[string]any) { b["items"] = list }
	}
	one := func(id any, quantity any) map[string]any {
		return map[string]any{"menu_item_id": id, "quantity": quantity}
	}
	set := func(name string, v any) func(map[string]any) {
		return func(b map[string]any) { b[name] = v }
	}
	address := func(name string, v any) func(map[string]any) {
		return func(b map[string]any) { b["delivery_address"].(map[string]any)[name] = v }
	}
	many := make([]map[string]any, 51)
	for i := range many {
		many[i] = one(uuid.NewString(), 1)
	}
	cases := map[string]struct {
		change  func(map[string]any)
		status  int
		pointer string
	}{
		"negative quantity":     {items(one(item, -1)), 422, "/items/0/quantity"},
		"zero quantity":         {items(one(item, 0)), 422, "/items/0/quantity"},
		"huge quantity":         {items(one(item, 100)), 422, "/items/0/quantity"},
		"quantity beyond int64": {items(one(item, json.Number("99999999999999999999"))), 400, "/items/0/quantity"},
		"quantity as text":      {items(one(item, "2")), 400, "/items/0/quantity"},
		"quantity 1.5":          {items(one(item, 1.5)), 400, "/items/0/quantity"},
		"no items":              {items(), 422, "/items"},
		"51 items":              {func(b map[string]any) { b["items"] = many }, 422, "/items"},
		"the same item twice":   {items(one(item, 1), one(item, 1)), 422, "/items/1/menu_item_id"},
		"item elsewhere":        {items(one(foreign, 1)), 422, "/items/0/menu_item_id"},
		"unknown item":          {items(one(uuid.NewString(), 1)), 422, "/items/0/menu_item_id"},
		"unavailable item":      {items(one(r.item(t, false).ID, 1)), 422, "/items/0/menu_item_id"},
		"item id no UUID":       {items(one("42", 1)), 0, "/items/0/menu_item_id"},
		"unknown restaurant":    {set("restaurant_id", uuid.NewString()), 422, "/restaurant_id"},
		"closed restaurant":     {set("restaurant_id", closed.ID), 422, "/restaurant_id"},
		"restaurant no UUID":    {set("restaurant_id", "x"), 0, "/restaurant_id"},
		"restaurant a number":   {set("restaurant_id", 7), 400, "/restaurant_id"},
		"unknown field":         {set("tip", 100), 400, "/tip"},
		"no payment method":     {set("payment_method", ""), 422, "/payment_method"},
		"long payment method":   {set("payment_method", strings.Repeat("x", 101)), 422, "/payment_method"},
		"long notes":            {set("notes", strings.Repeat("x", 501)), 422, "/notes"},
		"NUL in notes":          {set("notes", "a\x00b"), 422, "/notes"},
		"no address":            {set("delivery_address", nil), 422, "/delivery_address/line1"},
		"bad country":           {address("country", "Germany"), 422, "/delivery_address/country"},
		"long city":             {address("city", strings.Repeat("x", 201)), 422, "/delivery_address/city"},
		"deep":                  {set("notes", deep(40)), 400, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := basket(t, r, visa)
			tc.change(b)
			a := c.do("POST", "/orders", b)
			if tc.status == 0 {
				require.Contains(t, []int{400, 422}, a.Status)
				tc.status = a.Status
			}
			p := refused(t, a, tc.status)
			if tc.pointer != "" {
				require.NotEmpty(t, p.Errors, string(a.Body))
				require.Equal(t, tc.pointer, p.Errors[0].Pointer, string(a.Body))
			}
		})
	}
	for name, body := range map[string]string{
		"no JSON": `{"restaurant_id":`, "array": `[]`, "null": `null`, "trailing": `{} {}`, "text": `"x"`,
		"invalid UTF-8": "{\"notes\":\"\xff\"}", "twice": `{"notes":"a","notes":"b"}`,
		"100000 levels": strings.Repeat("[", 100_000),
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.do("POST", "/orders", body), http.StatusBadRequest) })
	}
	refused(t, c.do("POST", "/orders", `{"notes":"`+strings.Repeat("x", 1<<20)+`"}`), http.StatusRequestEntityTooLarge)
	refused(t, c.do("POST", "/orders", `{}`, "Content-Type", "text/plain"), http.StatusUnsupportedMediaType)
	refused(t, c.do("POST", "/orders", `{}`, "Content-Encoding", "gzip"), http.StatusUnsupportedMediaType)
	require.Empty(t, decode[list[order]](t, c.do("GET", "/orders", nil), http.StatusOK).Items, "nothing was stored")
}

func deep(n int) any {
	var v any = "x"
	for range n {
		v = []any{v}
	}
	return v
}

func TestBadQueriesAndIDs(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 0)
	for _, path := range []string{
		"/orders?limit=0", "/orders?limit=101", "/orders?limit=x", "/orders?cursor=%21", "/orders?cursor=AAAA", "/orders?status=eaten",
		"/payments?order_id=42", "/payments?limit=-1", "/notifications?cursor=x", "/notifications?unread=maybe", "/restaurants?cursor=%FF",
	} {
		a := c.do("GET", path, nil)
		refused(t, a, http.StatusBadRequest)
	}
	for _, path := range []string{"/orders/42", "/orders/42/timeline", "/payments/42", "/restaurants/42", "/orders/" + uuid.NewString(), "/restaurants/" + uuid.NewString()} {
		refused(t, c.do("GET", path, nil), http.StatusNotFound)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 0)
	r := kitchen(t)
	key := uuid.NewString()
	first := c.do("POST", "/orders", basket(t, r, visa), "Idempotency-Key", key)
	o := decode[order](t, first, http.StatusCreated)
	made.add(o.ID)
	require.Equal(t, "/orders/"+o.ID, first.Header.Get("Location"))
	c.waitStatus(o.ID, "confirmed")
	again := c.do("POST", "/orders", basket(t, r, visa), "Idempotency-Key", key)
	require.Equal(t, first.Status, again.Status)
	require.Equal(t, string(first.Body), string(again.Body), "a replay gives the same body")
	require.Equal(t, first.Header.Get("Location"), again.Header.Get("Location"))
	refused(t, c.do("POST", "/orders", basket(t, r, declined), "Idempotency-Key", key), http.StatusUnprocessableEntity)
	other, _ := user(t, 1)
	elsewhere := decode[order](t, other.do("POST", "/orders", basket(t, r, visa), "Idempotency-Key", key), http.StatusCreated)
	made.add(elsewhere.ID)
	require.NotEqual(t, o.ID, elsewhere.ID, "keys belong to a customer")
	for _, bad := range []string{strings.Repeat("x", 256), "a b"} {
		a := c.do("POST", "/orders", basket(t, r, visa), "Idempotency-Key", bad)
		require.GreaterOrEqual(t, a.Status, 400, bad)
		require.Less(t, a.Status, 500, bad)
	}
}

func TestBadRegistrations(t *testing.T) {
	t.Parallel()
	c := anonymous(t)
	good := func(change func(map[string]any)) map[string]any {
		b := map[string]any{"email": uuid.NewString() + "@example.com", "password": password, "name": "Asha"}
		change(b)
		return b
	}
	for pointer, change := range map[string]func(map[string]any){
		"/email":    func(b map[string]any) { b["email"] = "not an address" },
		"/password": func(b map[string]any) { b["password"] = "short" },
		"/name":     func(b map[string]any) { b["name"] = "" },
	} {
		p := refused(t, c.do("POST", "/auth/register", good(change)), http.StatusUnprocessableEntity)
		require.Equal(t, pointer, p.Errors[0].Pointer)
	}
}
