//go:build unix

package saga

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// platform stands in for the gateway: each order is paid and confirmed at
// once, and told to its customer's stream before the POST is answered, which is
// the order of things that is easy to get wrong.
type platform struct {
	mu      sync.Mutex
	streams map[string]chan string // by token
	kinds   []string
}

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("Authorization")
	switch r.URL.Path {
	case "/restaurants/" + restaurantID:
		_, _ = io.WriteString(w, `{"menu":[{"id":"a","available":false},{"id":"b","available":true}]}`)
	case "/auth/register":
		w.WriteHeader(http.StatusCreated)
	case "/auth/login":
		_ = json.NewEncoder(w).Encode(map[string]string{"access_token": uuid.NewString()})
	case "/orders":
		id := uuid.NewString()
		p.mu.Lock()
		told := p.streams[token]
		p.mu.Unlock()
		for _, kind := range p.kinds {
			told <- fmt.Sprintf("event: notification\ndata: {\"kind\":%q,\"order_id\":%q}\n\n", kind, id)
		}
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{"id": id})
	case "/notifications/stream":
		told := make(chan string, 1000)
		p.mu.Lock()
		p.streams[token] = told
		p.mu.Unlock()
		_, _ = io.WriteString(w, "data: {\"kind\":\"welcome\"}\n\n")
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case text := <-told:
				_, _ = io.WriteString(w, text)
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func crowdOf(t *testing.T, users int, kinds ...string) *crowd {
	t.Helper()
	server := httptest.NewServer(&platform{streams: map[string]chan string{}, kinds: kinds})
	t.Cleanup(server.Close)
	c, err := newCrowd(t.Context(), server.URL, users)
	require.NoError(t, err)
	t.Cleanup(c.close)
	return c
}

func TestOrdersAreCountedWhenPaidAndConfirmed(t *testing.T) {
	t.Parallel()
	c := crowdOf(t, 3, "order_placed", "payment_completed", "order_confirmed")
	ids, err := c.closedLoop(t.Context(), 50, 4)
	require.NoError(t, err)
	require.Len(t, ids, 50)
	require.NotContains(t, ids, "")

	timed, err := c.openLoop(t.Context(), 500, 20)
	require.NoError(t, err)
	require.Equal(t, 20, timed.post.Len())
	require.Equal(t, 20, timed.done.Len())
	require.Empty(t, c.orders, "nothing of a run is left to the next one")
}

func TestAnOrderThatIsOnlyPaidHasNotEnded(t *testing.T) {
	t.Parallel()
	c := crowdOf(t, 1, "payment_completed")
	id, err := c.place(t.Context(), 0, time.Now())
	require.NoError(t, err)
	paid := func() (paid, ended bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.orders[id].paid, !c.orders[id].ended.IsZero()
	}
	require.Eventually(t, func() bool { is, _ := paid(); return is }, time.Minute, time.Millisecond)
	_, ended := paid()
	require.False(t, ended)
}

func TestABrokenStreamFailsTheRun(t *testing.T) {
	t.Parallel()
	c := crowdOf(t, 1, "payment_completed")
	c.notified("no json")
	_, err := c.openLoop(t.Context(), 100, 1)
	require.ErrorContains(t, err, `notification "no json"`)
}

// The limit that the saga is held against is made of thirteen commits.
func TestStepsOfAnOrder(t *testing.T) {
	t.Parallel()
	commits, events := 0, 0
	for _, s := range steps {
		require.NotEmpty(t, s.sqls)
		commits++
		if s.events {
			events++
		}
	}
	require.Equal(t, 13, commits)
	require.Equal(t, 8, events)
}
