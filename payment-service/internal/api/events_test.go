package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/payment-service/internal/api"
)

// A round trip for each event would make the payment of a busy moment wait.
func TestEveryBatchReadsItsPaymentsAtOnce(t *testing.T) {
	t.Parallel()
	for _, s := range api.Subscriptions(nil) {
		require.NotNil(t, s.Load, s.Topic)
	}
}
