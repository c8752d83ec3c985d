package edge

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	r := setup(t, options{})
	r.issuer.RequireRefused(t, "http://"+r.addr+"/admin/users")
	require.Len(t, r.requests(), 1, "only the good token's request reached a service")
}
