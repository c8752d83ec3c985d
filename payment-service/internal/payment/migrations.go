package payment

import "embed"

// Migrations is the service's own schema, for postgres.Migrate.
//
//go:embed migrations/*.sql
var Migrations embed.FS
