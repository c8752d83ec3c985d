package auth

import (
	"testing"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth/migrations"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

func TestMigrationsCanBeTakenBack(t *testing.T) {
	t.Parallel()
	pgtest.DownAndUp(t, migrations.Files)
}
