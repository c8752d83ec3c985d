package invariant

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func kinds(s string) []string { return strings.Fields(s) }

// The checker itself must see each way in which a saga can go wrong.
func TestTheCheckerSeesEveryViolation(t *testing.T) {
	t.Parallel()
	paid := state{Status: "confirmed", Total: 100, Payment: "completed", Charges: 1, Kept: 100, Kinds: kinds("order_confirmed order_placed payment_completed")}
	declined := state{Status: "cancelled", Total: 100, Payment: "failed", Emitted: 1, Kinds: kinds("order_cancelled order_placed payment_failed")}
	refunded := state{
		Status: "cancelled", Total: 100, Payment: "refunded", Charges: 1, Refunds: 1, Emitted: 1,
		Kinds: kinds("order_cancelled order_confirmed order_placed payment_completed payment_refunded"),
	}
	for name, s := range map[string]state{"paid": paid, "declined": declined, "refunded": refunded} {
		require.Empty(t, s.violations(), name)
	}
	for name, c := range map[string]struct {
		from   state
		change func(*state)
	}{
		"still pending":          {paid, func(s *state) { s.Status = "pending" }},
		"charged 2 times":        {paid, func(s *state) { s.Charges = 2 }},
		"200 of 100 is kept":     {paid, func(s *state) { s.Kept = 200 }},
		"payment is \"pending\"": {paid, func(s *state) { s.Payment = "pending" }},
		"emitted":                {paid, func(s *state) { s.Emitted = 1 }},
		"is doubled":             {paid, func(s *state) { s.Kinds = kinds("order_confirmed order_placed payment_completed payment_completed") }},
		"no notification":        {paid, func(s *state) { s.Kinds = kinds("order_placed payment_completed") }},
		"order_placed":           {declined, func(s *state) { s.Kinds = kinds("order_cancelled payment_failed") }},
		"money is kept":          {declined, func(s *state) { s.Charges, s.Kept = 1, 100 }},
		"emitted 2 times":        {declined, func(s *state) { s.Emitted = 2 }},
		"the payment is \"\"":    {declined, func(s *state) { s.Payment = "" }},
		"of the cancellation":    {declined, func(s *state) { s.Kinds = kinds("order_placed payment_failed") }},
		"failure and its":        {declined, func(s *state) { s.Kinds = kinds("order_cancelled order_placed") }},
		"with 0 refunds":         {refunded, func(s *state) { s.Refunds = 0 }},
		"refund and its":         {refunded, func(s *state) { s.Kinds = kinds("order_cancelled order_placed") }},
	} {
		s := c.from
		c.change(&s)
		require.Contains(t, strings.Join(s.violations(), "; "), name)
	}
}
