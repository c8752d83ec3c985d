package postgres

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func TestTooOld(t *testing.T) {
	t.Parallel()
	for number, want := range map[string]string{
		"150018": "", "180003": "",
		"140011": "PostgreSQL is too old: the server is version 14, Tiffin needs 15 or newer: upgrade it or let DATABASE_URL point at a newer one",
		"90624":  "PostgreSQL is too old: the server is version 9, Tiffin needs 15 or newer: upgrade it or let DATABASE_URL point at a newer one",
	} {
		err := supported(number)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, want)
		require.True(t, passing(err), "the server may be upgraded")
	}
}

func TestPassing(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"08006": true, "28P01": true, "3D000": true, "53100": true, "53300": true, "57P01": true, "57P03": true,
		"25006": true, "42501": true, "55P03": true, "40P01": true,
		"42601": false, "42P07": false, "23505": false, "22001": false,
	} {
		require.Equal(t, want, passing(fmt.Errorf("migrate: %w", &pgconn.PgError{Code: code})), code)
	}
	require.True(t, passing(io.ErrUnexpectedEOF))
	require.False(t, passing(errors.New("goose: missing migration")))
}

func TestExplainDisk(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, Explain(&pgconn.PgError{Code: "53100"}), "disk is full: free space there")
	plain := errors.New("something else")
	require.Same(t, plain, Explain(plain))
}
