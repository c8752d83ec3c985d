package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/order-service/internal/api"
)

// A round trip for each event would make the order of a busy moment wait.
func TestEveryBatchReadsItsOrdersAtOnce(t *testing.T) {
	t.Parallel()
	for _, s := range api.Subscriptions(nil) {
		require.NotNil(t, s.Load, s.Topic)
	}
}
