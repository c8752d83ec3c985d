package api_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestPlaceReadAndCancelAnOrder(t *testing.T) {
	t.Parallel()
	w := setup(t)
	a := w.call(asha, "POST", "/orders", dalOrder)
	require.Equal(t, 201, a.status, a.body)
	id := w.id(a)
	require.JSONEq(t, orderJSON(id, "pending", ""), a.body)
	require.Equal(t, "/orders/"+id, a.header.Get("Location"))
	require.Equal(t, uuid.Version(7), uuid.MustParse(id).Version())

	a = w.call(asha, "GET", "/orders/"+id, "")
	require.Equal(t, 200, a.status)
	require.JSONEq(t, orderJSON(id, "pending", ""), a.body)

	paid := w.pay(id)
	a = w.call(asha, "GET", "/orders/"+id, "")
	require.JSONEq(t, orderJSON(id, "confirmed", ""), a.body)

	a = w.call(asha, "POST", "/orders/"+id+"/cancel", "{}")
	require.Equal(t, 400, a.status, "the route takes no body")
	a = w.call(asha, "POST", "/orders/"+id+"/cancel", "")
	require.Equal(t, 200, a.status)
	require.JSONEq(t, orderJSON(id, "cancelled", `"cancel_reason":"customer",`), a.body)
	a = w.call(asha, "POST", "/orders/"+id+"/cancel", "")
	problem(t, a, 409, "conflict", "Conflict", "an order that is cancelled cannot become cancelled", "/orders/"+id+"/cancel")

	var events []string
	rows, err := w.pool.Query(t.Context(), `select event_id from msg.outbox order by seq`)
	require.NoError(t, err)
	for rows.Next() {
		var e uuid.UUID
		require.NoError(t, rows.Scan(&e))
		events = append(events, e.String())
	}
	require.NoError(t, rows.Err())
	require.Len(t, events, 3)
	a = w.call(asha, "GET", "/orders/"+id+"/timeline", "")
	require.Equal(t, 200, a.status)
	when := `"at":"2026-01-02T03:04:05Z",`
	require.JSONEq(t, `{"items":[
		{"seq":1,`+when+`"kind":"order.created","detail":{"total":2250,"currency":"EUR"},"event_id":"`+events[0]+`"},
		{"seq":2,`+when+`"kind":"payment.completed","detail":{"payment_id":"`+uuid.Max.String()+`","amount":2250,"currency":"EUR"},"event_id":"`+paid.ID.String()+`"},
		{"seq":3,`+when+`"kind":"order.status_changed","detail":{"from":"pending","to":"confirmed"},"event_id":"`+events[1]+`"},
		{"seq":4,`+when+`"kind":"order.cancelled","detail":{"from":"confirmed","reason":"customer"},"event_id":"`+events[2]+`"}]}`, a.body)
}

func TestOrdersAreSeenByTheirOwnerAndAdminsOnly(t *testing.T) {
	t.Parallel()
	w := setup(t)
	id := w.place(asha)
	for _, path := range []string{"/orders/" + id, "/orders/" + id + "/timeline", "/orders/" + id + "/events"} {
		problem(t, w.call(ben, "GET", path, ""), 404, "not_found", "Not found", "there is no order with this id", path)
		a := w.call(uuid.Nil, "GET", path, "")
		require.Equal(t, 401, a.status)
		require.NotEmpty(t, a.header.Get("WWW-Authenticate"))
	}
	path := "/orders/" + id + "/cancel"
	problem(t, w.call(ben, "POST", path, ""), 404, "not_found", "Not found", "there is no order with this id", path)
	require.Equal(t, 200, w.call(root, "GET", "/orders/"+id, "").status)
	require.Equal(t, 200, w.call(root, "GET", "/orders/"+id+"/timeline", "").status)
	a := w.call(root, "POST", path, "")
	require.JSONEq(t, orderJSON(id, "cancelled", `"cancel_reason":"admin",`), a.body)

	for _, path := range []string{"/orders/42", "/orders/" + unknown, "/orders/{" + id + "}", "/orders/42/timeline", "/orders/42/events"} {
		require.Equal(t, 404, w.call(asha, "GET", path, "").status, path)
	}
	require.Equal(t, 404, w.call(asha, "POST", "/orders/%00/cancel", "").status)
}

func TestLists(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var ids []string
	for range 3 {
		ids = append(ids, w.place(asha))
	}
	bens := w.place(ben)
	require.Equal(t, 200, w.call(asha, "POST", "/orders/"+ids[1]+"/cancel", "").status)

	list := func(user uuid.UUID, path string) (got []string, cursor string) {
		t.Helper()
		a := w.call(user, "GET", path, "")
		require.Equal(t, 200, a.status, a.body)
		var page struct {
			Items []struct{ ID string }
			Next  string `json:"next_cursor"`
		}
		require.NoError(t, json.Unmarshal([]byte(a.body), &page))
		for _, o := range page.Items {
			got = append(got, o.ID)
		}
		return got, page.Next
	}
	got, cursor := list(asha, "/orders?limit=2")
	require.Equal(t, []string{ids[2], ids[1]}, got, "newest first")
	got, cursor = list(asha, "/orders?limit=2&cursor="+cursor)
	require.Equal(t, []string{ids[0]}, got)
	require.Empty(t, cursor, "the last page has no cursor")
	got, _ = list(asha, "/orders?status=cancelled")
	require.Equal(t, []string{ids[1]}, got)
	got, _ = list(root, "/orders")
	require.Empty(t, got, "own orders, also for an Admin")
	require.JSONEq(t, `{"items":[]}`, w.call(root, "GET", "/orders", "").body)
	got, _ = list(root, "/admin/orders")
	require.Equal(t, []string{bens, ids[2], ids[1], ids[0]}, got)
	got, cursor = list(root, "/admin/orders?status=pending&limit=1")
	require.Equal(t, []string{bens}, got)
	got, _ = list(root, "/admin/orders?status=pending&limit=9&cursor="+cursor)
	require.Equal(t, []string{ids[2], ids[0]}, got)
	got, _ = list(root, "/admin/orders?status=pending&customer_id="+asha.String())
	require.Equal(t, []string{ids[2], ids[0]}, got)
	a := w.call(asha, "GET", "/orders?limit=1&cursor="+base64.RawURLEncoding.EncodeToString([]byte(ids[1])), "")
	require.JSONEq(t, `{"items":[`+orderJSON(ids[0], "pending", "")+`]}`, a.body)

	problem(t, w.call(asha, "GET", "/admin/orders", ""), 403, "forbidden", "Not allowed",
		"this needs the role Admin", "/admin/orders")
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "limit=99999999999999999999", "cursor=!", "cursor=AAAA", "cursor=" + strings.Repeat("A", 2000),
		"cursor=" + base64.RawURLEncoding.EncodeToString([]byte("x\x00")), "status=eaten", "status=", "status=%00", "status=pending%20", "status=PENDING"} {
		a := w.call(asha, "GET", "/orders?"+query, "")
		require.Equal(t, 400, a.status, query)
		a = w.call(root, "GET", "/admin/orders?"+query, "")
		require.Equal(t, 400, a.status, query)
	}
	for _, query := range []string{"customer_id=42", "customer_id=", "customer_id=%00", "customer_id=urn:uuid:" + asha.String()} {
		problem(t, w.call(root, "GET", "/admin/orders?"+query, ""), 400, "malformed", "Malformed request", "customer_id must be a UUID", "/admin/orders")
	}
	require.Equal(t, 400, w.call(root, "GET", "/admin/orders?customer_id="+uuid.Nil.String(), "").status, "not everybody's orders")
}

func TestAdminStatus(t *testing.T) {
	t.Parallel()
	w := setup(t)
	id := w.place(asha)
	path := "/admin/orders/" + id + "/status"
	require.Equal(t, 403, w.call(asha, "POST", path, `{"status":"preparing"}`).status)
	problem(t, w.call(root, "POST", path, `{"status":"preparing"}`), 409, "conflict", "Conflict", "an order that is pending cannot become preparing", path)
	problem(t, w.call(root, "POST", path, `{"status":"confirmed"}`), 409, "conflict", "Conflict", "an order that is pending cannot become confirmed", path)
	for _, body := range []string{`{"status":"eaten"}`, `{"status":""}`, `{}`, `{"status":"\u0000"}`} {
		problem(t, w.call(root, "POST", path, body), 422, "invalid", "Invalid request", "the request has a problem; see errors", path,
			"/status", "must be one of preparing, out_for_delivery, delivered, cancelled")
	}
	require.Equal(t, 400, w.call(root, "POST", path, `{"status":7}`).status)
	require.Equal(t, 404, w.call(root, "POST", "/admin/orders/"+unknown+"/status", `{"status":"preparing"}`).status)
	w.pay(id)
	for _, to := range []string{"preparing", "out_for_delivery", "delivered"} {
		a := w.call(root, "POST", path, `{"status":"`+to+`"}`)
		require.Equal(t, 200, a.status, a.body)
		require.JSONEq(t, orderJSON(id, to, ""), a.body)
	}
	other := w.place(asha)
	a := w.call(root, "POST", "/admin/orders/"+other+"/status", `{"status":"cancelled"}`)
	require.JSONEq(t, orderJSON(other, "cancelled", `"cancel_reason":"admin",`), a.body)
	problem(t, w.call(asha, "POST", "/orders/"+id+"/cancel", ""), 409, "conflict", "Conflict", "an order that is delivered cannot become cancelled", "/orders/"+id+"/cancel")
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := setup(t)
	first := w.call(asha, "POST", "/orders", dalOrder, "Idempotency-Key", "k-1")
	require.Equal(t, 201, first.status, first.body)
	w.pay(w.id(first))
	again := w.call(asha, "POST", "/orders", strings.ReplaceAll(dalOrder, ",", " ,\n"), "Idempotency-Key", "k-1")
	require.Equal(t, first.status, again.status)
	require.Equal(t, first.body, again.body, "byte for byte, though it is confirmed by now")
	require.Equal(t, first.header.Get("Location"), again.header.Get("Location"))

	problem(t, w.call(asha, "POST", "/orders", strings.Replace(dalOrder, `"quantity":2`, `"quantity":3`, 1), "Idempotency-Key", "k-1"),
		422, "invalid", "Invalid request", "this Idempotency-Key was used with another body; use a new key for another order", "/orders")
	require.Equal(t, 201, w.call(ben, "POST", "/orders", dalOrder, "Idempotency-Key", "k-1").status, "another customer's key")
	require.Equal(t, 201, w.call(asha, "POST", "/orders", dalOrder, "Idempotency-Key", strings.Repeat("~", 255)).status)
	require.Equal(t, 3, w.rows("orders"))

	for _, key := range []string{"", "a b", strings.Repeat("x", 256), "ä", "a\tb"} {
		problem(t, w.call(asha, "POST", "/orders", dalOrder, "Idempotency-Key", key), 400, "malformed", "Malformed request",
			"Idempotency-Key must be one value of 1 to 255 visible ASCII characters", "/orders")
	}
	require.Equal(t, 400, w.call(asha, "POST", "/orders", dalOrder, "Idempotency-Key", "a", "Idempotency-Key", "b").status)
	require.Equal(t, 3, w.rows("orders"))
}

func TestTwentyRequestsWithOneKeyMakeOneOrder(t *testing.T) {
	t.Parallel()
	w := setup(t)
	answers := make([]answer, 20)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = w.call(asha, "POST", "/orders", dalOrder, "Idempotency-Key", "k") })
	}
	wg.Wait()
	bodies := map[string]bool{}
	for _, a := range answers {
		if a.status == 409 {
			require.Equal(t, "1", a.header.Get("Retry-After"))
			continue
		}
		require.Equal(t, 201, a.status, a.body)
		bodies[a.body] = true
	}
	require.Len(t, bodies, 1)
	require.Equal(t, 1, w.rows("orders"))
}

// Everything that a client can get wrong is told as a problem that says where,
// and nothing of it is stored.
func TestBadOrders(t *testing.T) {
	t.Parallel()
	w := setup(t)
	with := func(old, replacement string) string {
		require.Contains(t, dalOrder, old)
		return strings.Replace(dalOrder, old, replacement, 1)
	}
	quantity := `"quantity":2`
	many := strings.Repeat(`{"menu_item_id":"`+dal+`","quantity":1},`, 50)
	cases := map[string]struct {
		body    string
		status  int
		pointer string // of the only or first error
	}{
		"not JSON":           {`{"restaurant_id":`, 400, ""},
		"empty":              {` `, 400, ""},
		"array":              {`[]`, 400, ""},
		"trailing data":      {dalOrder + `{}`, 400, ""},
		"invalid UTF-8":      {with("1 Main St", "\xff"), 400, ""},
		"lone surrogate":     {with("1 Main St", `\ud800`), 400, ""},
		"too deep":           {with(`[{"menu_item_id"`, strings.Repeat("[", 40)+`[{"menu_item_id"`), 400, ""},
		"too large":          {with("1 Main St", strings.Repeat("x", 1<<20)), 413, ""},
		"unknown field":      {with(`"payment_method"`, `"total":1,"payment_method"`), 400, "/total"},
		"owner from outside": {with(`"payment_method"`, `"customer_id":"`+ben.String()+`","payment_method"`), 400, "/customer_id"},
		"price from outside": {with(quantity, `"quantity":2,"unit_price":1`), 400, "/items/0/unit_price"},
		"repeated field":     {with(`"payment_method"`, `"payment_method":"a","payment_method"`), 400, "/payment_method"},
		"restaurant no UUID": {with(saffron, "42"), 400, "/restaurant_id"},
		"restaurant number":  {with(`"`+saffron+`"`, "42"), 400, "/restaurant_id"},
		"item no UUID":       {with(naan, "naan"), 400, "/items/1/menu_item_id"},
		"quantity text":      {with(quantity, `"quantity":"2"`), 400, "/items/0/quantity"},
		"quantity fraction":  {with(quantity, `"quantity":1.5`), 400, "/items/0/quantity"},
		"quantity beyond":    {with(quantity, `"quantity":1e99`), 400, "/items/0/quantity"},
		"quantity int64":     {with(quantity, `"quantity":9223372036854775808`), 400, "/items/0/quantity"},
		"address text":       {with(`{"line1":"1 Main St","city":"Berlin","postal_code":"10115","country":"DE"}`, `"Berlin"`), 400, "/delivery_address"},
		"notes number":       {with(`"payment_method"`, `"notes":7,"payment_method"`), 400, "/notes"},

		"nothing":            {`{}`, 422, "/restaurant_id"},
		"null restaurant":    {with(`"`+saffron+`"`, "null"), 422, "/restaurant_id"},
		"unknown restaurant": {with(saffron, unknown), 422, "/restaurant_id"},
		"no items":           {with(dalOrder[strings.Index(dalOrder, `[{`):strings.Index(dalOrder, `]`)+1], "[]"), 422, "/items"},
		"51 items":           {with(`[{`, `[`+many+`{`), 422, "/items"},
		"quantity zero":      {with(quantity, `"quantity":0`), 422, "/items/0/quantity"},
		"quantity negative":  {with(quantity, `"quantity":-1`), 422, "/items/0/quantity"},
		"quantity huge":      {with(quantity, `"quantity":9223372036854775807`), 422, "/items/0/quantity"},
		"quantity 100":       {with(quantity, `"quantity":100`), 422, "/items/0/quantity"},
		"same item twice":    {with(naan, dal), 422, "/items/1/menu_item_id"},
		"item of another":    {with(naan, pizza), 422, "/items/1/menu_item_id"},
		"unknown item":       {with(naan, unknown), 422, "/items/1/menu_item_id"},
		"unavailable item":   {with(naan, lassi), 422, "/items/1/menu_item_id"},
		"NUL":                {with("1 Main St", `a\u0000b`), 422, "/delivery_address/line1"},
		"NUL in payment":     {with("pm_card_visa", `\u0000`), 422, "/payment_method"},
		"NUL in notes":       {with(`"payment_method"`, `"notes":"\u0000","payment_method"`), 422, "/notes"},
		"long line":          {with("1 Main St", strings.Repeat("ä", 201)), 422, "/delivery_address/line1"},
		"country":            {with(`"DE"`, `"Germany"`), 422, "/delivery_address/country"},
		"no payment method":  {with("pm_card_visa", ""), 422, "/payment_method"},
		"long notes":         {with(`"payment_method"`, `"notes":"`+strings.Repeat("n", 501)+`","payment_method"`), 422, "/notes"},
	}
	for name, c := range cases {
		a := w.call(asha, "POST", "/orders", c.body, "Idempotency-Key", "bad")
		require.Equal(t, c.status, a.status, name+a.body)
		require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), name)
		var p struct {
			Detail string
			Errors []struct{ Pointer, Detail string }
		}
		require.NoError(t, json.Unmarshal([]byte(a.body), &p), name)
		require.NotEmpty(t, p.Detail, name)
		if c.pointer != "" {
			require.NotEmpty(t, p.Errors, name)
			require.Equal(t, c.pointer, p.Errors[0].Pointer, name+a.body)
		}
	}
	require.Equal(t, 415, w.call(asha, "POST", "/orders", dalOrder, "Content-Type", "text/plain").status)
	for _, table := range []string{"orders", "timeline", "idempotency_keys", "msg.outbox"} {
		require.Zero(t, w.rows(table), "nothing is stored in %s", table)
	}
	problem(t, w.call(asha, "POST", "/orders", with(quantity, `"quantity":0`)), 422, "invalid", "Invalid request",
		"the request has a problem; see errors", "/orders", "/items/0/quantity", "must be from 1 to 99")
}

// What is odd but right is taken as it is.
func TestUnusualTextIsKept(t *testing.T) {
	t.Parallel()
	w := setup(t)
	notes := "Kein \"Käse\" \\ 'drop table orders' <b>&amp;</b> 🍕\n\tzweimal klingeln"
	quoted, err := json.Marshal(notes)
	require.NoError(t, err)
	a := w.call(asha, "POST", "/orders", strings.Replace(dalOrder, `"payment_method"`, `"notes":`+string(quoted)+`,"payment_method"`, 1))
	require.Equal(t, 201, a.status, a.body)
	read := w.call(asha, "GET", "/orders/"+w.id(a), "")
	require.Equal(t, a.body, read.body)
	var o struct{ Notes string }
	require.NoError(t, json.Unmarshal([]byte(read.body), &o))
	require.Equal(t, notes, o.Notes)
}
