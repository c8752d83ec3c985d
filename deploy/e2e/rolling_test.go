//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fromAddress is a client with an address of its own, so that several do not
// share the limit of one.
func fromAddress(t *testing.T, n byte) *http.Client {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	if runtime.GOOS == "linux" { // which has all of 127.0.0.0/8
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 60, 0, n)}
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp4", addr) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// Both replicas of the order-service are restarted in turn, some times, while
// clients read: none of them sees it.
func TestARollingRestartFailsNoIdempotentRequest(t *testing.T) {
	if !local(t) {
		return
	}
	if target.platform.Replicas < 2 {
		t.Log("needs REPLICAS=2: with one replica a restart is an outage")
		return
	}
	const readers = 6
	stop := make(chan struct{})
	var sent atomic.Int64
	var mu sync.Mutex
	var failed []string
	var wg sync.WaitGroup
	for n := range readers {
		c := fromAddress(t, byte(n+1))
		customer, _ := user(t, n/2)
		path, token := "/restaurants/01900000-0000-7000-8000-000000000001", ""
		if n%2 == 1 {
			path, token = "/orders?limit=5", customer.token
		}
		wg.Go(func() {
			interval := 50 * time.Millisecond // within the limits of each
			if runtime.GOOS != "linux" {
				interval *= 5 // and of one address for all
			}
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if problem := read(t.Context(), c, path, token); problem != "" {
					mu.Lock()
					failed = append(failed, problem)
					mu.Unlock()
				}
				sent.Add(1)
			}
		})
	}
	more := func() {
		at := sent.Load() + 60
		eventually(t, "readers", func() string {
			if sent.Load() >= at {
				return ""
			}
			return fmt.Sprint(sent.Load())
		})
	}
	more()
	restarts := 0
	for range 3 {
		for _, replica := range []string{"order-service", "order-service-2"} {
			require.NoError(t, target.platform.Restart(t.Context(), replica))
			restarts++
			more()
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d requests during %d restarts, %d failed", sent.Load(), restarts, len(failed))
	require.Empty(t, failed)
}

// read gets a path and returns what was wrong with the answer.
func read(ctx context.Context, c *http.Client, path, token string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.base+path, nil)
	if err != nil {
		return err.Error()
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("%s: %d %s", path, resp.StatusCode, body)
	}
	return ""
}
