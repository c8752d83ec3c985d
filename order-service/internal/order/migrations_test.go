package order

import (
	"testing"

	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMigrationsCanBeTakenBack(t *testing.T) {
	t.Parallel()
	pgtest.DownAndUp(t, Migrations)
}

func TestTablesThatGrowHaveSmallSamples(t *testing.T) {
	t.Parallel()
	pgtest.SmallSamples(t, pgtest.New(t, Migrations), "orders", "timeline", "idempotency_keys")
}
