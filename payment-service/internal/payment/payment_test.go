package payment_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
)

// Every status against every input: what is not listed changes nothing and says
// nothing.
func TestTheRules(t *testing.T) {
	t.Parallel()
	type state struct {
		status payment.Status
		cancel bool
	}
	pending, asked := state{payment.Pending, false}, state{payment.Pending, true}
	completed, owing := state{payment.Completed, false}, state{payment.RefundPending, false}
	failed, voided, refunded := state{payment.Failed, false}, state{payment.Voided, false}, state{payment.Refunded, false}
	all := []state{pending, asked, completed, owing, failed, voided, refunded, {payment.Failed, true}, {payment.Voided, true}, {payment.RefundPending, true}, {payment.Refunded, true}}

	type change struct {
		to    state
		facts []payment.Fact
	}
	const done, declined, request, back = payment.FactCompleted, payment.FactFailed, payment.FactRefundRequested, payment.FactRefunded
	settle := func(r payment.Result) func(*payment.Payment) []payment.Fact {
		return func(p *payment.Payment) []payment.Fact { return p.Settle(payment.Outcome{Result: r, Code: "c"}) }
	}
	release := func(r payment.Result) func(*payment.Payment) []payment.Fact {
		return func(p *payment.Payment) []payment.Fact { return p.Release(payment.Outcome{Result: r}) }
	}
	for name, c := range map[string]struct {
		rule func(*payment.Payment) []payment.Fact
		want map[state]change
	}{
		"charged": {settle(payment.Charged), map[state]change{
			pending: {completed, []payment.Fact{done}},
			asked:   {state{payment.RefundPending, true}, []payment.Fact{done, request}},
		}},
		"declined": {settle(payment.Declined), map[state]change{
			pending: {failed, []payment.Fact{declined}},
			asked:   {state{payment.Failed, true}, []payment.Fact{declined}},
		}},
		"confirm finds it voided":   {settle(payment.VoidedIntent), nil},
		"confirm finds it refunded": {settle(payment.RefundedCharge), nil},
		"nothing was asked":         {settle(""), nil},
		"cancelled": {(*payment.Payment).Cancel, map[state]change{
			pending:   {asked, []payment.Fact{request}},
			completed: {owing, []payment.Fact{request}},
		}},
		"voided, never charged": {release(payment.VoidedIntent), map[state]change{
			asked:                         {state{payment.Voided, true}, nil},
			owing:                         {refunded, []payment.Fact{back}},
			{payment.RefundPending, true}: {state{payment.Refunded, true}, []payment.Fact{back}},
		}},
		"voided, had been charged": {release(payment.RefundedCharge), map[state]change{
			asked:                         {state{payment.Refunded, true}, []payment.Fact{done, back}},
			owing:                         {refunded, []payment.Fact{back}},
			{payment.RefundPending, true}: {state{payment.Refunded, true}, []payment.Fact{back}},
		}},
		"void was not asked for": {release(""), nil},
		"void cannot charge":     {release(payment.Charged), nil},
	} {
		for _, from := range all {
			p := payment.Payment{Status: from.status, CancelRequested: from.cancel}
			facts := c.rule(&p)
			want, ok := c.want[from]
			if !ok {
				want = change{from, nil}
			}
			require.Equal(t, want, change{state{p.Status, p.CancelRequested}, facts}, "%s: from %v", name, from)
		}
	}
}

func TestWhoMayBeChargedAndWhoMustBeReleased(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		p                     payment.Payment
		chargeable, releasing bool
	}{
		{payment.Payment{Status: payment.Pending}, true, false},
		{payment.Payment{Status: payment.Pending, CancelRequested: true}, false, true},
		{payment.Payment{Status: payment.RefundPending}, false, true},
		{payment.Payment{Status: payment.RefundPending, CancelRequested: true}, false, true},
		{payment.Payment{Status: payment.Completed}, false, false},
		{payment.Payment{Status: payment.Failed}, false, false},
		{payment.Payment{Status: payment.Voided, CancelRequested: true}, false, false},
		{payment.Payment{Status: payment.Refunded, CancelRequested: true}, false, false},
	} {
		require.Equal(t, c.chargeable, c.p.Chargeable(), "%+v", c.p)
		require.Equal(t, c.releasing, c.p.Releasing(), "%+v", c.p)
	}
}

func TestADeclineKeepsItsReason(t *testing.T) {
	t.Parallel()
	p := payment.Payment{Status: payment.Pending}
	p.Settle(payment.Outcome{Result: payment.Declined, Code: "expired_card", Message: strings.Repeat("x", 3)})
	require.Equal(t, "expired_card", p.FailureCode)
	require.Equal(t, "xxx", p.FailureMessage)
}
