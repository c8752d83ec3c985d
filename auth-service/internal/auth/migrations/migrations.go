// Package migrations holds the schema of auth_db.
package migrations

import "embed"

// Files are the goose migrations.
//
//go:embed *.sql
var Files embed.FS
