//go:build e2e

package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// flight is how many orders are under way when something is killed.
const flight = 200

// load places n orders as fast as the limits allow, in the background: four
// customers, every fifth card declined. Failed requests are tried again with the
// same Idempotency-Key, as a client would.
type load struct {
	t     *testing.T
	wg    sync.WaitGroup
	mu    sync.Mutex
	ids   []string
	begun chan struct{} // closed when a quarter of the orders is placed
}

func startLoad(t *testing.T, n int) *load {
	l := &load{t: t, begun: make(chan struct{})}
	const customers = 4
	clients := make([]*client, customers)
	for i := range clients {
		clients[i], _ = user(t, i)
	}
	r := kitchen(t)
	for i, c := range clients {
		l.wg.Go(func() {
			for j := range n / customers {
				method := visa
				if (i+j)%5 == 0 {
					method = declined
				}
				id := c.insist(basket(t, r, method))
				l.mu.Lock()
				l.ids = append(l.ids, id)
				if len(l.ids) == n/4 {
					close(l.begun)
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// insist places an order through whatever happens meanwhile.
func (c *client) insist(body map[string]any) string {
	key := uuid.NewString()
	deadline := time.Now().Add(patience)
	for {
		status, got, err := c.try(body, key)
		if err == nil && status == http.StatusCreated {
			o := decode[order](c.t, answer{Status: status, Body: got}, http.StatusCreated)
			made.add(o.ID)
			return o.ID
		}
		// A refusal that is not about the fault would be a defect.
		if err == nil && status < 500 && status != http.StatusTooManyRequests && status != http.StatusConflict {
			require.Fail(c.t, "an order was refused", "%d %s", status, got)
		}
		require.True(c.t, time.Now().Before(deadline), "no order was taken for %s: %d %s %v", patience, status, got, err)
		pause(c.t, 100*time.Millisecond)
	}
}

// try places an order once.
func (c *client) try(body map[string]any, key string) (int, []byte, error) {
	raw, err := json.Marshal(body)
	require.NoError(c.t, err)
	resp, err := c.http.Do(c.request(c.t.Context(), http.MethodPost, "/orders", raw, "Idempotency-Key", key))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, got, err
}

// finish waits for the load and requires the invariant of all its orders.
func (l *load) finish() {
	l.t.Helper()
	l.wg.Wait()
	require.Len(l.t, l.ids, flight)
	holds(l.t, l.ids...)
}

// local returns from tests that need to kill processes when there are none.
func local(t *testing.T) bool {
	t.Helper()
	if target.platform == nil {
		t.Log("the processes of this target are not ours to kill")
	}
	return target.platform != nil
}

// Every part in turn is killed while orders are in flight, and comes back.
func TestKillAnyPartWithOrdersInFlight(t *testing.T) {
	if !local(t) {
		return
	}
	for _, part := range target.platform.Parts() {
		t.Run(part, func(t *testing.T) {
			l := startLoad(t, flight)
			<-l.begun
			require.NoError(t, target.platform.Kill(part))
			require.NoError(t, target.platform.WaitReady(t.Context()))
			l.finish()
		})
	}
}

func TestOrdersAreTakenWhileTheBrokerIsDown(t *testing.T) {
	if !local(t) {
		return
	}
	c, _ := user(t, 0)
	require.NoError(t, target.platform.KillPart("kafka"))
	o := c.place(visa)
	require.Equal(t, "pending", c.order(o.ID).Status)
	resp, err := httpClient.Get(target.platform.AdminURL("order-service") + "/readyz")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode, "the broker is reported, not decisive")
	require.NoError(t, target.platform.StartPart(t.Context(), "kafka"))
	c.waitStatus(o.ID, "confirmed")
	holds(t, o.ID)
}

func TestOneDatabaseDownLeavesTheOthersWorking(t *testing.T) {
	if !local(t) {
		return
	}
	c, _ := user(t, 0)
	before := c.place(visa)
	c.waitStatus(before.ID, "confirmed")
	require.NoError(t, target.platform.KillPart("postgres-payment"))
	o := c.place(visa) // the order service has its own
	eventually(t, "payment-service to be not ready", func() string {
		resp, err := httpClient.Get(target.platform.AdminURL("payment-service") + "/readyz")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable {
			return ""
		}
		return resp.Status
	})
	refused(t, c.do("GET", "/payments?order_id="+before.ID, nil), http.StatusServiceUnavailable)
	require.Equal(t, http.StatusOK, c.do("GET", "/notifications", nil).Status)
	require.Equal(t, "pending", c.order(o.ID).Status)
	require.NoError(t, target.platform.StartPart(t.Context(), "postgres-payment"))
	c.waitStatus(o.ID, "confirmed")
	holds(t, o.ID)
}

// With everything of the payment side away past the deadline, the order ends
// by it and no money is kept.
func TestAnUnpaidOrderEndsAtItsDeadline(t *testing.T) {
	if !local(t) {
		return
	}
	c, _ := user(t, 1)
	part := "payment-service"
	for _, p := range target.platform.Parts() {
		if p == part || p == part+"-2" {
			require.NoError(t, target.platform.KillPart(p))
		}
	}
	o := c.place(visa)
	late := c.waitStatus(o.ID, "cancelled")
	require.Equal(t, "payment_timeout", late.CancelReason)
	for _, p := range target.platform.Parts() {
		if p == part || p == part+"-2" {
			require.NoError(t, target.platform.StartPart(t.Context(), p))
		}
	}
	holds(t, o.ID)
}

// A payment whose provider never answers goes through all its tries to the dead
// letters; the order ends by its deadline and its key's later events still flow.
func TestAProviderThatNeverAnswersEndsInTheDeadLetters(t *testing.T) {
	if !local(t) {
		return
	}
	c, _ := user(t, 1)
	o := c.place("tok_provider_timeout")
	late := c.waitStatus(o.ID, "cancelled")
	require.Equal(t, "payment_timeout", late.CancelReason)
	c.waitPayment(o.ID, "voided")
	holds(t, o.ID)
}

// The whole platform stops and starts again: nothing is forgotten.
func TestARestartOfEverythingForgetsNothing(t *testing.T) {
	if !local(t) {
		return
	}
	l := startLoad(t, flight)
	<-l.begun
	for _, part := range target.platform.Parts() {
		require.NoError(t, target.platform.Kill(part))
	}
	require.NoError(t, target.platform.WaitReady(t.Context()))
	l.finish()
}

// The last word: all orders of all tests, once more.
func TestZZTheInvariantHoldsForEveryOrder(t *testing.T) {
	holds(t, made.list...)
}
