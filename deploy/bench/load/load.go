// Package load sends HTTP/1.1 requests with as little work as possible, so that
// one core of it outruns one core of any proxy: requests are bytes made in
// advance, and of an answer only the status and the length are read.
package load

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
)

// Target is where to send what. The requests are sent in turn.
type Target struct {
	Addr     string
	Requests [][]byte
	Status   string // of every answer, "200" when empty
}

// Outcome is what a run saw. Latencies of an open loop count from when a
// request was due.
type Outcome struct {
	Requests  int
	Took      time.Duration
	Latencies []time.Duration
}

// Quantile returns a latency in milliseconds.
func (o *Outcome) Quantile(q float64) float64 {
	return measure.Millis(measure.Quantile(o.Latencies, q))
}

// Closed sends from so many connections for a time, on each the next request as
// soon as the last is answered: what the other side can do at most.
func Closed(ctx context.Context, t Target, conns int, d time.Duration) (*Outcome, error) {
	outcomes := make([]Outcome, conns)
	errs := make([]error, conns)
	var next atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	end := began.Add(d)
	for i := range conns {
		wg.Go(func() {
			c, err := dial(ctx, t)
			if err != nil {
				errs[i] = err
				return
			}
			defer func() { _ = c.Close() }()
			for ctx.Err() == nil {
				sent := time.Now()
				if sent.After(end) {
					return
				}
				if errs[i] = c.exchange(t.Requests[int(next.Add(1))%len(t.Requests)]); errs[i] != nil {
					return
				}
				outcomes[i].Latencies = append(outcomes[i].Latencies, time.Since(sent))
			}
		})
	}
	wg.Wait()
	all := &Outcome{Took: time.Since(began)}
	for _, o := range outcomes {
		all.Latencies = append(all.Latencies, o.Latencies...)
	}
	all.Requests = len(all.Latencies)
	return all, errors.Join(append(errs, ctx.Err())...)
}

// Once sends every request once, from so many connections at a time.
func Once(ctx context.Context, t Target, conns int) error {
	var g errgroup.Group
	var next atomic.Int64
	for range conns {
		g.Go(func() error {
			c, err := dial(ctx, t)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(t.Requests) {
					return nil
				}
				if err := c.exchange(t.Requests[i]); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// Open sends at a fixed rate for a time, whether or not earlier requests were
// answered, over at most so many connections. A request that finds all of them
// busy is late, and its latency says so.
func Open(ctx context.Context, t Target, conns int, perSecond float64, d time.Duration) (*Outcome, error) {
	n := int(perSecond * d.Seconds())
	o := &Outcome{Requests: n, Latencies: make([]time.Duration, n)}
	idle := make(chan *conn, conns)
	failed := make(chan error, conns)
	var readers sync.WaitGroup
	var answered atomic.Int64
	done := make(chan struct{})
	var open []*conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
		readers.Wait()
	}()
	for range conns {
		c, err := dial(ctx, t)
		if err != nil {
			return nil, err
		}
		open = append(open, c)
		idle <- c
		readers.Go(func() {
			for {
				if err := c.answer(); err != nil {
					failed <- err // the last one is our own Close
					return
				}
				o.Latencies[c.number.Load()] = time.Since(time.Unix(0, c.due.Load()))
				idle <- c
				if answered.Add(1) == int64(n) {
					close(done)
				}
			}
		})
	}
	// The runtime's timers may be a millisecond late when nothing else happens,
	// a thread's own sleep is not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		sleepUntil(due)
		select {
		case c := <-idle:
			c.number.Store(int64(i))
			c.due.Store(due.UnixNano())
			if _, err := c.Write(t.Requests[i%len(t.Requests)]); err != nil {
				return nil, err
			}
		case err := <-failed:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	select {
	case <-done:
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("%d of %d requests were not answered within 30s", int64(n)-answered.Load(), n)
	}
	o.Took = time.Since(began)
	return o, nil
}

// conn is one connection with at most one request on its way.
type conn struct {
	net.Conn
	in          *bufio.Reader
	status      string
	number, due atomic.Int64
}

func dial(ctx context.Context, t Target) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, in: bufio.NewReaderSize(c, 8<<10), status: cmp.Or(t.Status, "200")}, nil
}

func (c *conn) exchange(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	return c.answer()
}

// answer reads one answer, which must have the status and a length.
func (c *conn) answer() error {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || string(line[9:12]) != c.status {
		status := string(bytes.TrimSpace(line))
		rest, _ := c.in.Peek(c.in.Buffered())
		return fmt.Errorf("answered %q: %.600s", status, rest)
	}
	length := -1
	for {
		if line, err = c.in.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return fmt.Errorf("content-length: %w", err)
			}
		}
	}
	if length < 0 {
		return errors.New("an answer without Content-Length")
	}
	_, err = c.in.Discard(length)
	return err
}

// Serve answers every request on l with the same bytes: an upstream that costs
// next to nothing. Requests have no body. It returns when l is closed.
func Serve(l net.Listener, answer []byte) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = c.Close() }()
			in := bufio.NewReaderSize(c, 8<<10)
			for {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return // closed, or io.EOF: the proxy has had enough
				}
				if len(line) > 2 {
					continue
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// Answer makes what Serve sends of a JSON body.
func Answer(body []byte) []byte {
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\nContent-Length: %d\r\n\r\n", len(body))
	_, _ = io.Copy(&b, bytes.NewReader(body))
	return b.Bytes()
}
