package payment_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/payment-service/internal/simulator"
)

// Whatever is late, doubled, out of order, dead-lettered or killed half-way, an
// order is charged at most once, a cancelled one costs nothing in the end, and
// every payment ends.
func TestEveryInterleavingKeepsThePromises(t *testing.T) {
	t.Parallel()
	for _, method := range []string{simulator.Visa, simulator.Declined, simulator.AnswerLost, simulator.ErrorTwice} {
		for _, s := range []setting{
			{rules: allRules(), method: method},
			{rules: allRules(), method: method, letters: true},
			{rules: allRules(), method: method, forgetful: true},
		} {
			states, quiet, broken := s.explore()
			require.Empty(t, broken, "%+v", s)
			require.Greater(t, quiet, 1)
			t.Logf("%s forgetful=%t letters=%t: %d states, %d of them ends", method, s.forgetful, s.letters, states, quiet)
		}
	}
	// A provider that never answers: without dead letters nothing would end it.
	s := setting{rules: allRules(), method: simulator.Timeout, letters: true}
	_, _, broken := s.explore()
	require.Empty(t, broken)
}

// The rules hold even where the inbox does not: events applied again after they
// were handled change nothing.
func TestTheRulesDoNotNeedTheInbox(t *testing.T) {
	t.Parallel()
	s := setting{rules: allRules(), method: simulator.Visa}
	s.inbox = false
	_, _, broken := s.explore()
	require.Empty(t, broken)
}

// Each mechanism is there for an interleaving that breaks a promise without it.
func TestEachMechanismIsNeeded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		remove func(*setting)
		breaks string
	}{
		"tombstone":                 {func(s *setting) { s.tombstone = false }, "money of a cancelled order is kept"},
		"conditional reference":     {func(s *setting) { s.conditionalRef = false }, "money of a cancelled order is kept"},
		"first reference wins":      {func(s *setting) { s.firstRefWins, s.forgetful = false, true }, "charged twice"},
		"cancel_requested":          {func(s *setting) { s.cancelFlag = false }, "money of a cancelled order is kept"},
		"charged once by its state": {func(s *setting) { s.chargedByState = false }, "charged twice"},
		"sweeper":                   {func(s *setting) { s.sweeper, s.letters = false, true }, "no way out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setting{rules: allRules(), method: simulator.Visa}
			c.remove(&s)
			_, _, broken := s.explore()
			require.NotEmpty(t, broken, "nothing breaks without it")
			require.Contains(t, broken, c.breaks)
			t.Log(broken)
		})
	}
}
