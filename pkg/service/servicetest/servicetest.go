// Package servicetest boots a service's run function in a test.
package servicetest

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/service"
)

const limit = 30 * time.Second

// Running is a booted service.
type Running struct {
	HTTP, Admin string // base URLs, such as http://127.0.0.1:40123

	t      testing.TB
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
	mu     sync.Mutex
	logs   strings.Builder
}

// Boot runs a service with the given settings on free ports and waits until it
// is ready. It is stopped, and must end cleanly, when the test ends.
func Boot(t testing.TB, run service.RunFunc, settings map[string]string) *Running {
	t.Helper()
	r := Launch(t, run, settings)
	r.WaitReady()
	return r
}

// Launch is Boot without the wait for readiness: it returns when the admin port
// answers. HTTP is empty until WaitReady.
func Launch(t testing.TB, run service.RunFunc, settings map[string]string) *Running {
	t.Helper()
	getenv := func(name string) string {
		if v, ok := settings[name]; ok {
			return v
		}
		switch name {
		case "HTTP_ADDR", "ADMIN_ADDR":
			return "127.0.0.1:0"
		}
		return ""
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Running{t: t, cancel: cancel, done: make(chan error, 1)}
	out, in := io.Pipe()
	scanned := make(chan struct{})
	go func() {
		defer close(scanned)
		r.scan(out)
	}()
	go func() {
		err := run(ctx, getenv, in)
		_ = in.Close()
		<-scanned
		r.done <- err
	}()
	t.Cleanup(r.Stop)
	r.await("the admin port", func() bool { return r.addr(&r.Admin) != "" })
	return r
}

// WaitReady waits until /readyz answers 200 and the HTTP port is open.
func (r *Running) WaitReady() {
	r.t.Helper()
	r.await("readiness", func() bool {
		if r.addr(&r.HTTP) == "" {
			return false
		}
		resp, err := http.Get(r.addr(&r.Admin) + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Stop ends the service as SIGTERM does and requires that it ends cleanly.
func (r *Running) Stop() {
	r.once.Do(func() {
		r.cancel()
		select {
		case err := <-r.done:
			require.NoError(r.t, err, r.Logs())
		case <-time.After(limit):
			require.Fail(r.t, "the service did not stop", r.Logs())
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

// Logs returns what the service logged so far.
func (r *Running) Logs() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logs.String()
}

func (r *Running) addr(p *string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *p
}

func (r *Running) scan(out io.Reader) {
	s := bufio.NewScanner(out)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var line struct{ Msg, Addr string }
		_ = json.Unmarshal(s.Bytes(), &line) // a line that is no JSON is kept as text
		r.mu.Lock()
		r.logs.Write(append(s.Bytes(), '\n'))
		switch line.Msg {
		case "http listening":
			r.HTTP = "http://" + line.Addr
		case "admin listening":
			r.Admin = "http://" + line.Addr
		}
		r.mu.Unlock()
	}
}

func (r *Running) await(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-r.done:
			r.done <- err
			require.Fail(r.t, "the service ended before "+what, "%v\n%s", err, r.Logs())
		case <-deadline.C:
			require.Fail(r.t, "timed out waiting for "+what, r.Logs())
		case <-tick.C:
		}
	}
}
