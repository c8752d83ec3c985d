package payment_test

import (
	"testing"

	"github.com/tiffin-platform/tiffin/payment-service/internal/payment"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMigrationsCanBeTakenBack(t *testing.T) {
	t.Parallel()
	pgtest.DownAndUp(t, payment.Migrations)
}

func TestTablesThatGrowHaveSmallSamples(t *testing.T) {
	t.Parallel()
	pgtest.SmallSamples(t, pgtest.New(t, payment.Migrations), "payments", "simulator.intents", "simulator.charges", "simulator.voids", "simulator.calls")
}
