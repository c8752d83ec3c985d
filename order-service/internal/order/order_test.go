package order

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

var (
	someRestaurant = uuid.MustParse("01900000-0000-7000-8000-00000000000a")
	someItem       = uuid.MustParse("01900000-0000-7000-8000-00000000000b")
	otherItem      = uuid.MustParse("01900000-0000-7000-8000-00000000000c")
	someCustomer   = uuid.MustParse("01900000-0000-7000-8000-00000000000d")
)

func goodPlacement() Placement {
	return Placement{
		RestaurantID:    someRestaurant,
		Items:           []PlacedItem{{someItem, 2}, {otherItem, 1}},
		DeliveryAddress: Address{Line1: "1 Main St", City: "Pune", PostalCode: "411001", Country: "IN"},
		PaymentMethod:   "pm_card_visa",
	}
}

func fields(t *testing.T, err error) map[string]string {
	t.Helper()
	got := map[string]string{}
	if err == nil {
		return got
	}
	var invalid *errs.Error
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, errs.Invalid, invalid.Kind)
	for _, f := range invalid.Fields {
		got[f.Pointer] = f.Detail
	}
	return got
}

// The life cycle, written out once more and independently: everything that is
// not here must be refused.
func TestTransitions(t *testing.T) {
	t.Parallel()
	legal := map[string]bool{
		"pending confirmed payment_completed": true,
		"pending cancelled payment_failed":    true,
		"pending cancelled payment_timeout":   true,
		"pending cancelled customer":          true,
		"pending cancelled admin":             true,
		"confirmed preparing admin":           true,
		"confirmed cancelled customer":        true,
		"confirmed cancelled admin":           true,
		"preparing out_for_delivery admin":    true,
		"out_for_delivery delivered admin":    true,
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, from := range Statuses() {
		for _, to := range Statuses() {
			for _, cause := range []Cause{PaymentCompleted, PaymentFailed, PaymentTimeout, ByCustomer, ByAdmin} {
				name := string(from) + " " + string(to) + " " + string(cause)
				o := Order{Status: from}
				err := o.move(to, cause, "code", now)
				if !legal[name] {
					require.Equal(t, errs.Conflict, errs.KindOf(err), name)
					require.Equal(t, Order{Status: from}, o, name)
					continue
				}
				delete(legal, name)
				require.NoError(t, err, name)
				want := Order{Status: to, UpdatedAt: now}
				if to == Cancelled {
					want.CancelReason, want.CancelCode = cause, "code"
				}
				require.Equal(t, want, o, name)
			}
		}
	}
	require.Empty(t, legal)
	require.False(t, Status("eaten").Valid())
	require.False(t, Status("").Valid())
}

func TestPlacementRules(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 201)
	cases := map[string]struct {
		change func(p *Placement)
		want   map[string]string
	}{
		"good":       {func(*Placement) {}, map[string]string{}},
		"everything": {func(p *Placement) { p.Notes, p.DeliveryAddress.Line2 = "ring\ntwice\t😀", strings.Repeat("ä", 200) }, map[string]string{}},
		"empty": {func(p *Placement) { *p = Placement{} }, map[string]string{
			"/restaurant_id": "is required", "/items": "must hold from 1 to 50 items",
			"/delivery_address/line1":       "must be 1 to 200 characters long",
			"/delivery_address/city":        "must be 1 to 200 characters long",
			"/delivery_address/postal_code": "must be 1 to 200 characters long",
			"/delivery_address/country":     "must be an ISO 3166-1 alpha-2 code such as IN",
			"/payment_method":               "must be 1 to 100 characters long",
		}},
		"51 items": {func(p *Placement) { p.Items = make([]PlacedItem, 51) }, map[string]string{"/items": "must hold from 1 to 50 items"}},
		"zero":     {func(p *Placement) { p.Items[0].Quantity = 0 }, map[string]string{"/items/0/quantity": "must be from 1 to 99"}},
		"negative": {func(p *Placement) { p.Items[1].Quantity = -1 }, map[string]string{"/items/1/quantity": "must be from 1 to 99"}},
		"hundred":  {func(p *Placement) { p.Items[1].Quantity = 100 }, map[string]string{"/items/1/quantity": "must be from 1 to 99"}},
		"twice": {func(p *Placement) { p.Items[1].MenuItemID = someItem }, map[string]string{
			"/items/1/menu_item_id": "is the same as in item 0; raise its quantity instead",
		}},
		"no item": {func(p *Placement) { p.Items[0].MenuItemID = uuid.Nil }, map[string]string{"/items/0/menu_item_id": "is required"}},
		"no address": {func(p *Placement) { p.DeliveryAddress = Address{} }, map[string]string{
			"/delivery_address/line1":       "must be 1 to 200 characters long",
			"/delivery_address/city":        "must be 1 to 200 characters long",
			"/delivery_address/postal_code": "must be 1 to 200 characters long",
			"/delivery_address/country":     "must be an ISO 3166-1 alpha-2 code such as IN",
		}},
		"long": {func(p *Placement) {
			p.DeliveryAddress.Line1, p.DeliveryAddress.Line2, p.DeliveryAddress.City, p.DeliveryAddress.PostalCode = long, long, long, long
			p.PaymentMethod, p.Notes = strings.Repeat("x", 101), strings.Repeat("ä", 501)
		}, map[string]string{
			"/delivery_address/line1":       "must be 1 to 200 characters long",
			"/delivery_address/line2":       "must be at most 200 characters long",
			"/delivery_address/city":        "must be 1 to 200 characters long",
			"/delivery_address/postal_code": "must be 1 to 200 characters long",
			"/payment_method":               "must be 1 to 100 characters long",
			"/notes":                        "must be at most 500 characters long",
		}},
		"control characters": {func(p *Placement) {
			p.DeliveryAddress.Line1, p.DeliveryAddress.Line2, p.PaymentMethod, p.Notes = "a\x00b", "a\nb", "\x1b[2J", "a\x00"
		}, map[string]string{
			"/delivery_address/line1": "must not hold control characters",
			"/delivery_address/line2": "must not hold control characters",
			"/payment_method":         "must not hold control characters",
			"/notes":                  "must not hold control characters other than line breaks and tabs",
		}},
		"blank": {func(p *Placement) { p.DeliveryAddress.City, p.PaymentMethod = " \u3000", " " }, map[string]string{
			"/delivery_address/city": "must not be blank", "/payment_method": "must not be blank",
		}},
	}
	for _, country := range []string{"", "in", "IND", "ZZ", "I ", "D ", " D", "N I"} {
		cases["country "+country] = struct {
			change func(p *Placement)
			want   map[string]string
		}{
			func(p *Placement) { p.DeliveryAddress.Country = country },
			map[string]string{"/delivery_address/country": "must be an ISO 3166-1 alpha-2 code such as IN"},
		}
	}
	for name, c := range cases {
		p := goodPlacement()
		c.change(&p)
		require.Equal(t, c.want, fields(t, p.validate()), name)
	}
}

func TestPricing(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	id := uuid.MustParse("01900000-0000-7000-8000-00000000000e")
	menu := func(a, b int64) Restaurant {
		return Restaurant{ID: someRestaurant, Name: "R", Open: true, Currency: "EUR", Menu: []MenuItem{
			{ID: otherItem, Name: "B", Price: b, Available: true}, {ID: someItem, Name: "A", Price: a, Available: true},
		}}
	}
	p := goodPlacement()
	o, err := newOrder(p, menu(950, 300), someCustomer, id, now, now.Add(time.Minute))
	require.NoError(t, err)
	require.Equal(t, Order{
		ID: id, CustomerID: someCustomer, RestaurantID: someRestaurant, RestaurantName: "R", Status: Pending,
		Items: []Item{{someItem, "A", 950, 2, 1900}, {otherItem, "B", 300, 1, 300}}, Total: 2200, Currency: "EUR",
		DeliveryAddress: p.DeliveryAddress, PaymentMethod: "pm_card_visa",
		PaymentDeadline: now.Add(time.Minute), CreatedAt: now, UpdatedAt: now,
	}, o)

	o, err = newOrder(p, menu(MaxAmount/2, 1), someCustomer, id, now, now)
	require.NoError(t, err)
	require.Equal(t, MaxAmount, o.Total, "the largest total is allowed")

	cases := map[string]struct {
		r    Restaurant
		want map[string]string
	}{
		"line too large":  {menu(MaxAmount/2+1, 1), map[string]string{"/items/0/quantity": "makes the line exceed 9007199254740991"}},
		"price too large": {menu(1<<62, 1), map[string]string{"/items/0/quantity": "makes the line exceed 9007199254740991"}},
		"total too large": {menu(MaxAmount/2, 2), map[string]string{"/items": "the total exceeds 9007199254740991"}},
		"closed":          {func() Restaurant { r := menu(1, 1); r.Open = false; return r }(), map[string]string{"/restaurant_id": "this restaurant is closed"}},
		"unavailable":     {func() Restaurant { r := menu(1, 1); r.Menu[0].Available = false; return r }(), map[string]string{"/items/1/menu_item_id": "is not available"}},
		"not on the menu": {func() Restaurant { r := menu(1, 1); r.Menu = r.Menu[:1]; return r }(), map[string]string{"/items/0/menu_item_id": "is not on the menu of this restaurant"}},
	}
	for name, c := range cases {
		_, err := newOrder(p, c.r, someCustomer, id, now, now)
		require.Equal(t, c.want, fields(t, err), name)
	}
}

// Whatever happens to an order later, a replay shows it as it was placed.
func TestAsPlacedUndoesEveryMove(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	placed, err := newOrder(goodPlacement(), Restaurant{ID: someRestaurant, Open: true, Currency: "EUR", Menu: []MenuItem{
		{ID: otherItem, Price: 1, Available: true}, {ID: someItem, Price: 1, Available: true},
	}}, someCustomer, uuid.Max, now, now)
	require.NoError(t, err)
	for to, causes := range transitions[Pending] {
		o := placed
		require.NoError(t, o.move(to, causes[0], "code", now.Add(time.Hour)))
		require.NotEqual(t, placed, o)
		require.Equal(t, placed, o.asPlaced())
	}
}

func TestRestaurantAndMenuRules(t *testing.T) {
	t.Parallel()
	yes := true
	good := RestaurantInput{Name: "Ä's", Cuisine: "Indian", Address: "1 St", Open: &yes, Currency: "EUR"}
	_, err := good.restaurant(someRestaurant)
	require.NoError(t, err)
	_, err = RestaurantInput{Currency: "EURO"}.restaurant(someRestaurant)
	require.Equal(t, map[string]string{
		"/name": "must be 1 to 200 characters long", "/cuisine": "must be 1 to 200 characters long", "/address": "must be 1 to 200 characters long",
		"/open": "is required", "/currency": "must be an ISO 4217 code such as EUR",
	}, fields(t, err))

	require.Equal(t, map[string]string{"/menu": "is required"}, fields(t, MenuInput{}.validate()))
	require.Equal(t, map[string]string{"/menu": "must hold at most 500 items"}, fields(t, MenuInput{Menu: make([]MenuItemInput, 501)}.validate()))
	require.NoError(t, MenuInput{Menu: []MenuItemInput{}}.validate())
	in := MenuInput{Menu: []MenuItemInput{
		{ID: &someItem, Name: "A", Price: MaxAmount, Available: &yes},
		{ID: &someItem, Name: "\x00", Description: strings.Repeat("x", 501), Price: MaxAmount + 1},
		{Name: "C", Price: -1, Available: &yes},
	}}
	require.Equal(t, map[string]string{
		"/menu/1/id": "is the same as in item 0", "/menu/1/name": "must not hold control characters",
		"/menu/1/description": "must be at most 500 characters long", "/menu/1/price": "must be from 1 to 9007199254740991 minor units",
		"/menu/1/available": "is required", "/menu/2/price": "must be from 1 to 9007199254740991 minor units",
	}, fields(t, in.validate()))
	in = MenuInput{Menu: []MenuItemInput{{ID: &someItem, Available: &yes}, {ID: &otherItem, Available: &yes}, {Available: &yes}}}
	_, err = in.items(map[uuid.UUID]bool{someItem: true}, uuid.New)
	require.Equal(t, map[string]string{"/menu/1/id": "is no item of the present menu; leave id out for a new item"}, fields(t, err))
}

func TestDemoCatalogueIsValid(t *testing.T) {
	t.Parallel()
	unavailable := 0
	seen := map[uuid.UUID]bool{}
	for _, r := range demoCatalogue() {
		_, err := RestaurantInput{Name: r.Name, Cuisine: r.Cuisine, Address: r.Address, Open: &r.Open, Currency: r.Currency}.restaurant(r.ID)
		require.NoError(t, err)
		require.False(t, seen[r.ID])
		seen[r.ID] = true
		in := MenuInput{}
		for _, m := range r.Menu {
			require.False(t, seen[m.ID])
			seen[m.ID] = true
			in.Menu = append(in.Menu, MenuItemInput{&m.ID, m.Name, m.Description, m.Price, &m.Available})
			if !m.Available {
				unavailable++
			}
		}
		require.NoError(t, in.validate())
	}
	require.Len(t, demoCatalogue(), 3)
	require.Equal(t, 1, unavailable)
}
