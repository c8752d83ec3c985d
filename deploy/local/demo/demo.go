//go:build unix

// Package demo plays a customer through the gateway: an order that is paid and
// delivered, one that a declined card cancels, and one that is cancelled and
// refunded. It prints what the platform did about each.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/deploy/local/rows"
	"github.com/tiffin-platform/tiffin/deploy/local/runner"
)

// The customer, the same in every run, so that a later one finds the orders.
const (
	email    = "demo@tiffin.local"
	password = "demo-customer-password"
)

// Welcome prints where the platform is reached and the first Admin.
func Welcome(p *runner.Platform, out io.Writer) {
	_, _ = fmt.Fprintf(out, "\nTiffin is up on %s (its API: %s/openapi.json)\nfirst Admin: %s, password %s\n",
		p.GatewayURL(), p.GatewayURL(), runner.AdminEmail, runner.AdminPassword)
}

// What a reader of the demo has seen already or does not miss; make rows shows it.
var hidden = []string{
	"public.timeline", "simulator.calls", "id", "key", "order_id", "customer_id", "user_id", "restaurant_id", "restaurant_name",
	"event_id", "items", "delivery_address", "method", "provider", "payment_deadline", "created_at", "updated_at", "at",
	"body", "refund_asks", "cancel_requested", "confirms", "failure_message",
}

type play struct {
	ctx             context.Context
	out             io.Writer
	customer, admin *client
	menu            restaurant
	address         map[string]any
}

// Play plays the three orders. Its error says what did not come out as promised.
func Play(ctx context.Context, p *runner.Platform, out io.Writer) error {
	began := time.Now()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	web := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	d := &play{
		ctx: ctx, out: out,
		customer: &client{base: p.GatewayURL(), http: web}, admin: &client{base: p.GatewayURL(), http: web},
		address: map[string]any{"line1": "1 Lunch Lane", "city": "Berlin", "postal_code": "10115", "country": "DE"},
	}
	Welcome(p, out)
	if err := d.signIn(); err != nil {
		return err
	}
	if err := d.earlier(); err != nil {
		return err
	}
	if err := d.pickRestaurant(); err != nil {
		return err
	}
	var last order
	for _, story := range []struct {
		title string
		play  func() (order, error)
	}{
		{"An order that is paid and delivered", d.delivered},
		{"An order that a declined card cancels", d.declined},
		{"An order that is paid, cancelled and refunded", d.refunded},
	} {
		_, _ = fmt.Fprintf(out, "\n── %s\n", story.title)
		o, err := story.play()
		if err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(story.title), err)
		}
		if err := d.timeline(o.ID); err != nil {
			return err
		}
		if err := rows.Tables(ctx, p.Options, o.ID, hidden, out); err != nil {
			return err
		}
		last = o
	}
	_, _ = fmt.Fprintf(out, "\nall three orders ended as promised, in %.1fs\n", time.Since(began).Seconds())
	d.curl(p.GatewayURL(), last)
	return nil
}

func (d *play) signIn() error {
	err := d.customer.call(d.ctx, http.MethodPost, "/auth/register",
		map[string]string{"email": email, "password": password, "name": "Demo Customer"}, nil)
	var known *statusError
	if err != nil && (!errors.As(err, &known) || known.status != http.StatusConflict) {
		return err
	}
	for user, credentials := range map[*client][2]string{d.customer: {email, password}, d.admin: {runner.AdminEmail, runner.AdminPassword}} {
		var token struct {
			AccessToken string `json:"access_token"`
		}
		err := user.call(d.ctx, http.MethodPost, "/auth/login", map[string]string{"email": credentials[0], "password": credentials[1]}, &token)
		if err != nil {
			return err
		}
		user.token = token.AccessToken
	}
	return nil
}

func (d *play) earlier() error {
	var orders list[order]
	if err := d.customer.call(d.ctx, http.MethodGet, "/orders?limit=12", nil, &orders); err != nil {
		return err
	}
	if len(orders.Items) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(d.out, "\nearlier orders of this customer:")
	for _, o := range orders.Items {
		_, _ = fmt.Fprintf(d.out, "  %s  %s  %-17s %7s  %s\n", o.CreatedAt.Local().Format(time.DateTime), o.ID, o.Status, money(o.Total, o.Currency), o.RestaurantName)
	}
	return nil
}

func money(minor int64, currency string) string {
	return fmt.Sprintf("%d.%02d %s", minor/100, minor%100, currency)
}

func (d *play) pickRestaurant() error {
	var all list[restaurant]
	if err := d.customer.call(d.ctx, http.MethodGet, "/restaurants", nil, &all); err != nil {
		return err
	}
	for _, r := range all.Items {
		if !r.Open {
			continue
		}
		if err := d.customer.call(d.ctx, http.MethodGet, "/restaurants/"+r.ID, nil, &d.menu); err != nil {
			return err
		}
		for _, item := range d.menu.Menu {
			if item.Available {
				return nil
			}
		}
	}
	return errors.New("no open restaurant has anything to eat: the demo catalogue is missing (SEED_DEMO_DATA)")
}

// place orders two of the first dish.
func (d *play) place(method string) (order, error) {
	var o order
	for _, item := range d.menu.Menu {
		if !item.Available {
			continue
		}
		err := d.customer.call(d.ctx, http.MethodPost, "/orders", map[string]any{
			"restaurant_id": d.menu.ID, "items": []map[string]any{{"menu_item_id": item.ID, "quantity": 2}},
			"delivery_address": d.address, "payment_method": method,
		}, &o)
		if err == nil {
			_, _ = fmt.Fprintf(d.out, "order %s: 2 × %s from %s, %s, paid with %s\n", o.ID, item.Name, d.menu.Name, money(o.Total, o.Currency), method)
		}
		return o, err
	}
	return o, errors.New("nothing on the menu")
}

func (d *play) delivered() (order, error) {
	o, err := d.place("pm_card_visa")
	if err != nil {
		return o, err
	}
	if err := d.reaches(o.ID, "confirmed", "completed"); err != nil {
		return o, err
	}
	for _, status := range []string{"preparing", "out_for_delivery", "delivered"} {
		if err := d.admin.call(d.ctx, http.MethodPost, "/admin/orders/"+o.ID+"/status", map[string]string{"status": status}, nil); err != nil {
			return o, err
		}
	}
	if err := d.reaches(o.ID, "delivered", "completed"); err != nil {
		return o, err
	}
	return o, d.notified(o.ID, "order_placed", "payment_completed", "order_confirmed", "order_preparing", "order_out_for_delivery", "order_delivered")
}

func (d *play) declined() (order, error) {
	o, err := d.place("pm_card_visa_chargeDeclined")
	if err != nil {
		return o, err
	}
	if err := d.reaches(o.ID, "cancelled", "failed"); err != nil {
		return o, err
	}
	return o, d.notified(o.ID, "order_placed", "payment_failed", "order_cancelled")
}

func (d *play) refunded() (order, error) {
	o, err := d.place("pm_card_mastercard")
	if err != nil {
		return o, err
	}
	if err := d.reaches(o.ID, "confirmed", "completed"); err != nil {
		return o, err
	}
	if err := d.customer.call(d.ctx, http.MethodPost, "/orders/"+o.ID+"/cancel", nil, nil); err != nil {
		return o, err
	}
	if err := d.reaches(o.ID, "cancelled", "refunded"); err != nil {
		return o, err
	}
	return o, d.notified(o.ID, "order_placed", "payment_completed", "order_confirmed", "order_cancelled", "payment_refunded")
}

// reaches waits until the order and its payment are in these states, and the
// order's timeline shows the payment's.
func (d *play) reaches(id, status, paid string) error {
	return until(d.ctx, "order "+status+", payment "+paid, func() (bool, string, error) {
		var o order
		if err := d.customer.call(d.ctx, http.MethodGet, "/orders/"+id, nil, &o); err != nil {
			return false, err.Error(), err
		}
		var payments list[payment]
		if err := d.customer.call(d.ctx, http.MethodGet, "/payments?order_id="+id, nil, &payments); err != nil {
			return false, err.Error(), err
		}
		var kinds list[entry]
		if err := d.customer.call(d.ctx, http.MethodGet, "/orders/"+id+"/timeline", nil, &kinds); err != nil {
			return false, err.Error(), err
		}
		seen := slices.ContainsFunc(kinds.Items, func(e entry) bool { return e.Kind == "payment."+paid })
		state := fmt.Sprintf("order %s, payments %v", o.Status, payments.Items)
		return o.Status == status && len(payments.Items) == 1 && payments.Items[0].Status == paid && seen, state, nil
	})
}

// notified waits until there is exactly one notification of each kind.
func (d *play) notified(id string, kinds ...string) error {
	slices.Sort(kinds)
	return until(d.ctx, "notifications "+strings.Join(kinds, ", "), func() (bool, string, error) {
		var all list[notification]
		if err := d.customer.call(d.ctx, http.MethodGet, "/notifications?limit=50", nil, &all); err != nil {
			return false, err.Error(), err
		}
		var got []string
		for _, n := range all.Items {
			if n.OrderID == id {
				got = append(got, n.Kind)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, kinds), strings.Join(got, ", "), nil
	})
}

func (d *play) timeline(id string) error {
	var all list[entry]
	if err := d.customer.call(d.ctx, http.MethodGet, "/orders/"+id+"/timeline", nil, &all); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(d.out, "timeline")
	for _, e := range all.Items {
		var detail []string
		for _, name := range slices.Sorted(maps.Keys(e.Detail)) {
			detail = append(detail, fmt.Sprintf("%s=%v", name, e.Detail[name]))
		}
		_, _ = fmt.Fprintf(d.out, "  %s  %-24s %s\n", e.At.Local().Format("15:04:05.000"), e.Kind, strings.Join(detail, " "))
	}
	return nil
}

// curl prints commands that work as they are, for as long as the token does.
func (d *play) curl(base string, last order) {
	_, _ = fmt.Fprintf(d.out, `
try it yourself (the token is good for 15 minutes):

  TOKEN=%s
  curl -s %[2]s/orders -H "Authorization: Bearer $TOKEN"
  curl -s %[2]s/orders/%[3]s/timeline -H "Authorization: Bearer $TOKEN"
  curl -s %[2]s/notifications -H "Authorization: Bearer $TOKEN"
  curl -s %[2]s/orders -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{
    "restaurant_id": "%[4]s",
    "items": [{"menu_item_id": "%[5]s", "quantity": 1}],
    "delivery_address": {"line1": "1 Lunch Lane", "city": "Berlin", "postal_code": "10115", "country": "DE"},
    "payment_method": "pm_card_visa"}'
  make rows ORDER=%[3]s
`, d.customer.token, base, last.ID, d.menu.ID, d.firstDish())
}

func (d *play) firstDish() string {
	for _, item := range d.menu.Menu {
		if item.Available {
			return item.ID
		}
	}
	return ""
}
