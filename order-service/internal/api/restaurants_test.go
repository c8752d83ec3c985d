package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

const saffronJSON = `"id":"` + saffron + `","name":"Saffron & Smoke","cuisine":"Indian","address":"12 Curry Lane, Berlin","open":true,"currency":"EUR"`

func TestRestaurantsArePublic(t *testing.T) {
	t.Parallel()
	w := setup(t)
	a := w.call(uuid.Nil, "GET", "/restaurants", "")
	require.Equal(t, 200, a.status)
	require.JSONEq(t, `{"items":[
		{"id":"01900000-0000-7000-8000-000000000002","name":"Napoli Express","cuisine":"Italian","address":"3 Piazza Street, Berlin","open":true,"currency":"EUR"},
		{`+saffronJSON+`},
		{"id":"01900000-0000-7000-8000-000000000003","name":"Tokyo Bento","cuisine":"Japanese","address":"7 Sakura Road, Berlin","open":true,"currency":"JPY"}]}`, a.body)

	a = w.call(uuid.Nil, "GET", "/restaurants/"+saffron, "")
	require.Equal(t, 200, a.status)
	require.JSONEq(t, `{`+saffronJSON+`,"menu":[
		{"id":"`+dal+`","name":"Dal Makhani","description":"Black lentils, slowly cooked with butter","price":950,"available":true},
		{"id":"01900000-0000-7000-8000-000000000102","name":"Paneer Tikka","description":"Grilled cheese, peppers, mint chutney","price":1150,"available":true},
		{"id":"`+naan+`","name":"Garlic Naan","description":"From the tandoor","price":350,"available":true},
		{"id":"`+lassi+`","name":"Mango Lassi","description":"Sold out until the next harvest","price":450,"available":false}]}`, a.body)

	var page struct {
		Items []struct{ Name string }
		Next  string `json:"next_cursor"`
	}
	var names []string
	for next := ""; ; next = "&cursor=" + page.Next {
		a := w.call(uuid.Nil, "GET", "/restaurants?limit=1"+next, "")
		require.Equal(t, 200, a.status, a.body)
		page.Next = ""
		require.NoError(t, json.Unmarshal([]byte(a.body), &page))
		names = append(names, page.Items[0].Name)
		if page.Next == "" {
			break
		}
	}
	require.Equal(t, []string{"Napoli Express", "Saffron & Smoke", "Tokyo Bento"}, names)

	problem(t, w.call(uuid.Nil, "GET", "/restaurants/"+unknown, ""), 404, "not_found", "Not found", "there is no restaurant with this id", "/restaurants/"+unknown)
	require.Equal(t, 404, w.call(uuid.Nil, "GET", "/restaurants/saffron", "").status)
	require.Equal(t, 400, w.call(uuid.Nil, "GET", "/restaurants?cursor=AA", "").status)
	require.Equal(t, 405, w.call(uuid.Nil, "DELETE", "/restaurants/"+saffron, "").status)
}

func TestAdminsWriteRestaurants(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const in = `{"name":"Zeit & Brot","cuisine":"Bakery","address":"1 Mill","open":true,"currency":"CHF"}`
	require.Equal(t, 401, w.call(uuid.Nil, "POST", "/admin/restaurants", in).status)
	require.Equal(t, 403, w.call(asha, "POST", "/admin/restaurants", in).status)
	a := w.call(root, "POST", "/admin/restaurants", in)
	require.Equal(t, 201, a.status, a.body)
	id := w.id(a)
	require.Equal(t, "/restaurants/"+id, a.header.Get("Location"))
	require.JSONEq(t, `{"id":"`+id+`",`+in[1:len(in)-1]+`,"menu":[]}`, a.body)
	require.JSONEq(t, a.body, w.call(uuid.Nil, "GET", "/restaurants/"+id, "").body)

	path := "/admin/restaurants/" + id
	a = w.call(root, "PUT", path+"/menu", `{"menu":[{"name":"Bread","description":"","price":700,"available":true}]}`)
	require.Equal(t, 200, a.status, a.body)
	var menu struct{ Menu []struct{ ID string } }
	require.NoError(t, json.Unmarshal([]byte(a.body), &menu))
	bread := `"menu":[{"id":"` + menu.Menu[0].ID + `","name":"Bread","description":"","price":700,"available":true}]}`
	require.JSONEq(t, `{"id":"`+id+`",`+in[1:len(in)-1]+`,`+bread, a.body)

	closed := strings.Replace(in, "true", "false", 1)
	a = w.call(root, "PUT", path, closed)
	require.Equal(t, 200, a.status, a.body)
	require.JSONEq(t, `{"id":"`+id+`",`+closed[1:len(in)]+`,`+bread, a.body)

	a = w.call(asha, "POST", "/orders", strings.NewReplacer(saffron, id, dal, menu.Menu[0].ID).Replace(dalOrder))
	problem(t, a, 422, "invalid", "Invalid request", "the request has problems; see errors", "/orders",
		"/restaurant_id", "this restaurant is closed", "/items/1/menu_item_id", "is not on the menu of this restaurant")
}

func TestBadRestaurants(t *testing.T) {
	t.Parallel()
	w := setup(t)
	path := "/admin/restaurants/" + saffron
	problem(t, w.call(root, "PUT", path, `{}`), 422, "invalid", "Invalid request", "the request has problems; see errors", path,
		"/name", "must be 1 to 200 characters long", "/cuisine", "must be 1 to 200 characters long", "/address", "must be 1 to 200 characters long",
		"/open", "is required", "/currency", "must be an ISO 4217 code such as EUR")
	problem(t, w.call(root, "PUT", path+"/menu", `{"menu":[{"name":"a\u0000","price":0,"available":true},{"name":"b","description":"\u0000","price":9007199254740992}]}`),
		422, "invalid", "Invalid request", "the request has problems; see errors", path+"/menu",
		"/menu/0/name", "must not hold control characters", "/menu/0/price", "must be from 1 to 9007199254740991 minor units",
		"/menu/1/description", "must not hold control characters other than line breaks and tabs",
		"/menu/1/price", "must be from 1 to 9007199254740991 minor units", "/menu/1/available", "is required")
	problem(t, w.call(root, "PUT", path+"/menu", `{"menu":[{"id":"`+pizza+`","name":"Stolen","price":1,"available":true}]}`),
		422, "invalid", "Invalid request", "the request has a problem; see errors", path+"/menu",
		"/menu/0/id", "is no item of the present menu; leave id out for a new item")
	for body, status := range map[string]int{
		`{"menu":null}`: 422, `{}`: 422, `{"menu":{}}`: 400, `{"menu":[{"price":1.5}]}`: 400, `{"menu":[{"id":"x"}]}`: 400, `{"menu":[{"price":1e30}]}`: 400,
		`{"menu":[{"open":true}]}`: 400, `[]`: 400, `{"menu":[` + strings.Repeat(`{},`, 500) + `{}]}`: 422,
	} {
		require.Equal(t, status, w.call(root, "PUT", path+"/menu", body).status, body)
	}
	require.Equal(t, 404, w.call(root, "PUT", "/admin/restaurants/"+unknown+"/menu", `{"menu":[]}`).status)
	require.Equal(t, 404, w.call(root, "PUT", "/admin/restaurants/"+unknown, `{"name":"a","cuisine":"b","address":"c","open":true,"currency":"EUR"}`).status)
	require.Equal(t, 404, w.call(root, "PUT", "/admin/restaurants/x", `{}`).status)
	a := w.call(uuid.Nil, "GET", "/restaurants/"+saffron, "")
	require.Contains(t, a.body, "Dal Makhani", "nothing was stored")
}

// Prices at the top of their range: the largest total is taken, one more unit
// is refused, and nothing overflows on the way.
func TestLargeAmounts(t *testing.T) {
	t.Parallel()
	w := setup(t)
	a := w.call(root, "PUT", "/admin/restaurants/"+saffron+"/menu", fmt.Sprintf(
		`{"menu":[{"id":%q,"name":"Gold","price":4503599627370495,"available":true},{"id":%q,"name":"Dust","price":1,"available":true}]}`, dal, naan))
	require.Equal(t, 200, a.status, a.body)
	a = w.call(asha, "POST", "/orders", dalOrder)
	require.Equal(t, 201, a.status, a.body)
	require.Contains(t, a.body, `"total":9007199254740991`)
	problem(t, w.call(asha, "POST", "/orders", strings.Replace(dalOrder, `"quantity":1`, `"quantity":2`, 1)), 422, "invalid", "Invalid request",
		"the request has a problem; see errors", "/orders", "/items", "the total exceeds 9007199254740991")
	problem(t, w.call(asha, "POST", "/orders", strings.Replace(dalOrder, `"quantity":2`, `"quantity":99`, 1)), 422, "invalid", "Invalid request",
		"the request has a problem; see errors", "/orders", "/items/0/quantity", "makes the line exceed 9007199254740991")
}
