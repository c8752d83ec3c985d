package order

import (
	"testing"

	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMigrationsCanBeTakenBack(t *testing.T) {
	t.Parallel()
	pgtest.DownAndUp(t, Migrations)
}
