//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// Stripe's public test tokens, which decide what the simulator does.
const (
	visa     = "pm_card_visa"
	declined = "pm_card_visa_chargeDeclined"
	noFunds  = "pm_card_visa_chargeDeclinedInsufficientFunds"
	expired  = "pm_card_chargeDeclinedExpiredCard"
	flaky    = "tok_provider_error_twice"
)

func TestAPaidOrderIsConfirmedAndDelivered(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 0)
	o := c.place(visa)
	require.Equal(t, "pending", o.Status)
	c.waitStatus(o.ID, "confirmed")
	c.waitKinds(o.ID, "order_placed", "payment_completed", "order_confirmed")

	for _, status := range []string{"preparing", "out_for_delivery", "delivered"} {
		moved := decode[order](t, admin(t).do("POST", "/admin/orders/"+o.ID+"/status", map[string]any{"status": status}), http.StatusOK)
		require.Equal(t, status, moved.Status)
	}
	c.waitKinds(o.ID, "order_placed", "payment_completed", "order_confirmed", "order_preparing", "order_out_for_delivery", "order_delivered")
	require.Equal(t, []string{"order.created", "payment.completed", "order.status_changed", "order.status_changed", "order.status_changed", "order.status_changed"}, kindsOf(c.timeline(o.ID)))
	p := c.waitPayment(o.ID, "completed")
	require.Equal(t, o.Total, p.Amount)
	refused(t, c.do("POST", "/orders/"+o.ID+"/cancel", nil), http.StatusConflict)
	holds(t, o.ID)
}

func TestADeclinedPaymentCancelsTheOrderOnce(t *testing.T) {
	t.Parallel()
	for method, code := range map[string]string{declined: "card_declined", noFunds: "insufficient_funds", expired: "expired_card", "no_such_card": "invalid_payment_method"} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c, _ := user(t, 0)
			o := c.place(method)
			o = c.waitStatus(o.ID, "cancelled")
			require.Equal(t, "payment_failed", o.CancelReason)
			require.Equal(t, code, o.CancelCode)
			c.waitKinds(o.ID, "order_placed", "payment_failed", "order_cancelled")
			require.Equal(t, []string{"order.created", "payment.failed", "order.cancelled"}, kindsOf(c.timeline(o.ID)))
			require.Equal(t, code, c.waitPayment(o.ID, "failed").FailureCode)
			require.Len(t, emitted(t, o.ID, "order.cancelled"), 1, "one order.cancelled record")
			holds(t, o.ID)
		})
	}
}

func TestAPaidOrderThatIsCancelledIsRefunded(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 1)
	o := c.place(visa)
	c.waitStatus(o.ID, "confirmed")
	cancelled := decode[order](t, c.do("POST", "/orders/"+o.ID+"/cancel", nil), http.StatusOK)
	require.Equal(t, "cancelled", cancelled.Status)
	require.Equal(t, "customer", cancelled.CancelReason)
	refused(t, c.do("POST", "/orders/"+o.ID+"/cancel", nil), http.StatusConflict)
	c.waitPayment(o.ID, "refunded")
	c.waitKinds(o.ID, "order_placed", "payment_completed", "order_confirmed", "order_cancelled", "payment_refunded")
	eventually(t, "the refund in the timeline", func() string {
		kinds := kindsOf(c.timeline(o.ID))
		if len(kinds) == 5 && kinds[4] == "payment.refunded" {
			return ""
		}
		return "timeline: " + join(kinds)
	})
	holds(t, o.ID)
}

// The cancel races the charge: whoever wins, no money is kept.
func TestCancellingAtOnceKeepsNoMoney(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 1)
	var ids []string
	for range 10 {
		o := c.place(visa)
		require.Equal(t, http.StatusOK, c.do("POST", "/orders/"+o.ID+"/cancel", nil).Status)
		ids = append(ids, o.ID)
	}
	for _, id := range ids {
		require.Equal(t, "cancelled", c.order(id).Status)
	}
	holds(t, ids...)
}

func TestAProviderThatFailsTwiceIsRetriedToOneCharge(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 2)
	slow := c.place(flaky)
	other := c.place(visa)
	c.waitStatus(other.ID, "confirmed")
	c.waitStatus(slow.ID, "confirmed")
	c.waitKinds(slow.ID, "order_placed", "payment_completed", "order_confirmed")
	holds(t, slow.ID, other.ID)
}

func TestAnAdminCancels(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 2)
	o := c.place(visa)
	c.waitStatus(o.ID, "confirmed")
	require.Equal(t, http.StatusOK, admin(t).do("POST", "/orders/"+o.ID+"/cancel", nil).Status)
	require.Equal(t, "admin", c.order(o.ID).CancelReason)
	c.waitPayment(o.ID, "refunded")
	holds(t, o.ID)
}

func TestAWelcomeFollowsRegistration(t *testing.T) {
	t.Parallel()
	c, _ := newUser(t)
	c.waitKinds("", "welcome")
}

func TestOrderStreamShowsTheSagaAndResumes(t *testing.T) {
	t.Parallel()
	c, _ := user(t, 3)
	o := c.place(visa)
	all := c.stream("/orders/"+o.ID+"/events", "", func(e streamed) bool {
		return e.Event == "timeline" && kindOf(t, e) == "order.status_changed"
	})
	require.Equal(t, "order", all[0].Event, "the order as it is comes first")
	var kinds []string
	for _, e := range all {
		if e.Event == "timeline" {
			kinds = append(kinds, kindOf(t, e))
		}
	}
	require.Equal(t, []string{"order.created", "payment.completed", "order.status_changed"}, kinds)

	var first streamed
	for _, e := range all {
		if e.Event == "timeline" {
			first = e
			break
		}
	}
	again := c.stream("/orders/"+o.ID+"/events", first.ID, func(e streamed) bool {
		return e.Event == "timeline" && kindOf(t, e) == "order.status_changed"
	})
	kinds = nil
	for _, e := range again {
		if e.Event == "timeline" {
			kinds = append(kinds, kindOf(t, e))
		}
	}
	require.Equal(t, []string{"payment.completed", "order.status_changed"}, kinds, "Last-Event-ID resumes after that event")
}

func kindOf(t testing.TB, e streamed) string {
	t.Helper()
	var entry timelineEntry
	require.NoError(t, json.Unmarshal([]byte(e.Data), &entry), e.Data)
	return entry.Kind
}

func TestNotificationStreamMissesNothing(t *testing.T) {
	t.Parallel()
	c, _ := newUser(t)
	const orders = 5
	for range orders {
		c.place(visa)
	}
	seen := map[int64]bool{}
	c.stream("/notifications/stream", "0", func(e streamed) bool {
		var n notification
		require.NoError(t, json.Unmarshal([]byte(e.Data), &n), e.Data)
		require.False(t, seen[n.Seq], "seq %d came twice", n.Seq)
		seen[n.Seq] = true
		return len(seen) == 1+3*orders
	})
	for seq := range int64(1 + 3*orders) {
		require.True(t, seen[seq+1], "seq %d is missing", seq+1)
	}
}

func TestNotificationsAreReadOnce(t *testing.T) {
	t.Parallel()
	c, _ := newUser(t)
	c.waitKinds("", "welcome")
	unread := decode[list[notification]](t, c.do("GET", "/notifications?unread=true", nil), http.StatusOK).Items
	require.Len(t, unread, 1)
	other, _ := user(t, 0)
	refused(t, other.do("POST", "/notifications/"+unread[0].ID+"/read", nil), http.StatusNotFound)
	for range 2 {
		require.Equal(t, http.StatusNoContent, c.do("POST", "/notifications/"+unread[0].ID+"/read", nil).Status)
	}
	require.Empty(t, decode[list[notification]](t, c.do("GET", "/notifications?unread=true", nil), http.StatusOK).Items)
}
