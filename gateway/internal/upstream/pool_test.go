package upstream

import (
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted stands for the network: it answers by host.
type scripted map[string]func(*Request) (*Response, error)

func ok(*Request) (*Response, error) { return &Response{conn: &conn{}}, nil }

func refuse(*Request) (*Response, error) {
	return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
}

func reset(*Request) (*Response, error) {
	return nil, &net.OpError{Op: "read", Err: errors.New("connection reset")}
}

func setup(t *testing.T, s scripted, hosts ...string) (*Pool, *time.Time) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var list []*url.URL
	for _, h := range hosts {
		list = append(list, &url.URL{Scheme: "http", Host: h})
	}
	reg := prometheus.NewRegistry()
	p := NewPool("order", list, NewMetrics(reg), reg, func() time.Time { return now })
	p.exchange = func(a *address, req *Request) (*Response, error) {
		resp, err := s[a.url.Host](req)
		if resp != nil {
			resp.address = a
		}
		return resp, err
	}
	return p, &now
}

// request is one that is far from its deadline.
func request(method, body string) *Request {
	return &Request{
		Method: method, Target: "/orders", Body: []byte(body), Length: int64(len(body)),
		Deadline: time.Now().Add(time.Hour), Interrupted: func() error { return nil },
	}
}

func send(t *testing.T, p *Pool, method, body string) error {
	t.Helper()
	resp, err := p.Do(request(method, body))
	if err == nil {
		resp.address.outstanding.Add(-1) // there is no connection to end
	}
	return err
}

func TestARefusedConnectionIsTriedElsewhereWhateverTheMethod(t *testing.T) {
	t.Parallel()
	p, _ := setup(t, scripted{"a": refuse, "b": refuse, "c": ok}, "a", "b", "c")
	for range 5 {
		require.NoError(t, send(t, p, "POST", "{}"))
	}
	require.Equal(t, 2, p.resting())
}

func TestAReplicaThatIsBackIsFoundWhenTheOthersHaveGone(t *testing.T) {
	t.Parallel()
	down := map[string]bool{"a": true, "b": true}
	script := func(host, next string) func(*Request) (*Response, error) {
		return func(r *Request) (*Response, error) {
			if !down[host] {
				return ok(r)
			}
			down[host] = false // back, but too late for this one
			down[next] = true
			return refuse(r)
		}
	}
	p, _ := setup(t, scripted{"a": script("a", "b"), "b": script("b", "c")}, "a", "b")
	require.NoError(t, send(t, p, "POST", "{}"))
	down = nil
	p, _ = setup(t, scripted{"a": refuse, "b": refuse}, "a", "b")
	require.Error(t, send(t, p, "GET", ""), "it has an end")
}

func TestALostConnectionIsTriedElsewhereOnlyForGet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, body string
		repeated     bool
	}{{"GET", "", true}, {"HEAD", "", true}, {"GET", "x", false}, {"POST", "", false}, {"POST", "x", false}, {"PUT", "", false}, {"DELETE", "", false}} {
		tries := 0
		lose := func(r *Request) (*Response, error) { tries++; return reset(r) }
		p, _ := setup(t, scripted{"a": lose, "b": lose}, "a", "b")
		require.Error(t, send(t, p, c.method, c.body))
		want := 1
		if c.repeated {
			want = 2
		}
		require.Equal(t, want, tries, "%s %q", c.method, c.body)
	}
}

func TestABodyThatWasReadIsNotSentAgain(t *testing.T) {
	t.Parallel()
	tries := 0
	half := func(r *Request) (*Response, error) {
		tries++
		r.uploading = true
		return refuse(r)
	}
	p, _ := setup(t, scripted{"a": half, "b": half}, "a", "b")
	require.Error(t, send(t, p, "POST", "xyz"))
	require.Equal(t, 1, tries)
}

func TestFailuresInARowOpenTheBreakerAndProbesCloseIt(t *testing.T) {
	t.Parallel()
	answer := reset
	asked := 0
	p, now := setup(t, scripted{"a": func(r *Request) (*Response, error) { asked++; return answer(r) }}, "a")
	fail := func() error { return send(t, p, "POST", "") }
	for range 2 {
		require.Error(t, fail())
	}
	answer = ok
	require.NoError(t, fail())
	answer = reset
	for range 3 {
		require.Error(t, fail())
	}
	require.Equal(t, 6, asked, "a success in between starts the count anew")
	rest := restMin
	for range 5 {
		var down *DownError
		require.ErrorAs(t, fail(), &down)
		require.True(t, Unreached(down))
		require.Positive(t, down.RetryAfter)
		before := asked
		*now = now.Add(rest - time.Millisecond)
		require.ErrorAs(t, fail(), &down)
		require.Equal(t, before, asked, "while it rests nothing is sent")
		*now = now.Add(time.Millisecond)
		require.False(t, errors.As(fail(), &down), "a probe")
		require.Equal(t, before+1, asked)
		rest = min(rest*2, restMax)
	}
	*now = now.Add(restMax)
	answer = ok
	require.NoError(t, fail())
	answer = reset
	require.False(t, errors.As(fail(), new(*DownError)))
	require.Zero(t, p.resting(), "closed: one failure is not enough again")
}

func TestOneProbeAtATime(t *testing.T) {
	t.Parallel()
	var p *Pool
	probing := false
	answer := func(*Request) (*Response, error) {
		if probing {
			var down *DownError
			require.ErrorAs(t, send(t, p, "GET", ""), &down, "another request while the probe runs")
		}
		return reset(nil)
	}
	p, now := setup(t, scripted{"a": answer}, "a")
	for range 3 {
		require.Error(t, send(t, p, "GET", ""))
	}
	*now = now.Add(restMin)
	probing = true
	require.False(t, errors.As(send(t, p, "GET", ""), new(*DownError)))
}

func TestAClientThatLeavesIsNotHeldAgainstTheReplica(t *testing.T) {
	t.Parallel()
	gone := &callerError{errors.New("gone")}
	p, _ := setup(t, scripted{"a": func(*Request) (*Response, error) { return nil, gone }}, "a")
	for range 10 {
		require.ErrorIs(t, send(t, p, "GET", ""), gone.err)
	}
	require.Zero(t, p.resting())
	p, _ = setup(t, scripted{"a": func(*Request) (*Response, error) { return nil, ErrTimeout }}, "a")
	for range 3 {
		require.ErrorIs(t, send(t, p, "GET", ""), ErrTimeout)
	}
	require.Equal(t, 1, p.resting(), "its slowness is")
}
