package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

// visit sends n requests on one connection from a local address, each with the
// fields that it is given, and returns the statuses.
func visit(t *testing.T, addr string, from net.IP, n int, fields func(i int) string) map[int]int {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 20 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.(*net.TCPConn).SetLinger(0)) // leaves no port waiting
	in := bufio.NewReader(c)
	statuses := map[int]int{}
	for i := range n {
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		_, err := io.WriteString(c, "GET /restaurants HTTP/1.1\r\nHost: x\r\n"+fields(i)+"\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(in, nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		statuses[resp.StatusCode]++
	}
	return statuses
}

// resident is what this process holds of the system's memory for Go.
func resident() int64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}

// withoutRequests drops the lines of requests: tests keep the log in memory.
type withoutRequests struct{ io.Writer }

func (w withoutRequests) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`"msg":"request"`)) {
		return len(p), nil
	}
	return w.Writer.Write(p)
}

func quietRun(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	return run(ctx, getenv, withoutRequests{stdout})
}

// The whole gateway, with its default limits, in one process with its clients.
func TestAFloodOfAddressesCostsLittleMemory(t *testing.T) {
	const claimed, real, workers = 50_000, 20_000, 8
	service := listen(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	g := servicetest.Boot(t, quietRun, settings(authntest.New(t), service))
	addr := strings.TrimPrefix(g.HTTP, "http://")
	none := func(int) string { return "" }
	visit(t, addr, net.IPv4(127, 0, 0, 1), 10, none)
	before := resident()

	// Addresses that somebody claims are nobody's: one client, and it is limited.
	var mu sync.Mutex
	statuses := map[int]int{}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			got := visit(t, addr, net.IPv4(127, 0, 0, 1), claimed/workers, func(i int) string {
				ip := fmt.Sprintf("198.%d.%d.%d", w, i>>8&255, i&255)
				return "X-Forwarded-For: " + ip + "\r\nX-Real-IP: " + ip + "\r\nForwarded: for=" + ip + "\r\n"
			})
			mu.Lock()
			defer mu.Unlock()
			for status, n := range got {
				statuses[status] += n
			}
		})
	}
	wg.Wait()
	require.Equal(t, claimed, statuses[200]+statuses[429])
	require.Greater(t, statuses[429], claimed/2, statuses)
	require.Equal(t, "1", clients(t, g))

	if runtime.GOOS != "linux" {
		t.Log("only Linux gives a process all of 127.0.0.0/8")
		return
	}
	for w := range workers {
		wg.Go(func() {
			for i := range real / workers {
				require.Equal(t, map[int]int{200: 1}, visit(t, addr, net.IPv4(127, byte(10+w), byte(i>>8), byte(i)), 1, none))
			}
		})
	}
	wg.Wait()
	grown := resident() - before
	t.Logf("%d claimed and %d real addresses: %.1f MiB more", claimed, real, float64(grown)/(1<<20))
	require.Less(t, grown, int64(64<<20), "bytes")
	// And the limits still hold, for each apart.
	got := visit(t, addr, net.IPv4(127, 200, 0, 1), 400, none)
	require.Positive(t, got[429], got)
	require.Equal(t, map[int]int{200: 1}, visit(t, addr, net.IPv4(127, 200, 0, 2), 1, none))
}

// clients is how many addresses the gateway remembers.
func clients(t *testing.T, g *servicetest.Running) string {
	t.Helper()
	_, metrics := get(t, g.Admin+"/metrics", "")
	_, rest, found := strings.Cut(metrics, `tiffin_gateway_limit_clients{policy="ip"} `)
	require.True(t, found)
	n, _, _ := strings.Cut(rest, "\n")
	return n
}
