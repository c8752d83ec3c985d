//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var targets = []string{
	"postgres-order", "kafka", "order-service", "order-service-2", "gateway",
	"order-service" + linkArrow + "postgres-order", "payment-service" + linkArrow + "kafka",
}

func TestASeedGivesTheSamePlan(t *testing.T) {
	t.Parallel()
	plan := newPlan(4711, time.Minute, targets)
	require.Equal(t, plan, newPlan(4711, time.Minute, targets))
	require.NotEqual(t, plan, newPlan(4712, time.Minute, targets))
	require.Greater(t, len(plan), 30)
}

func TestAPlanBreaksATargetInOneWayAtATimeAndEndsInTime(t *testing.T) {
	t.Parallel()
	did := map[fault]int{}
	for seed := range uint64(50) {
		free := map[string]time.Duration{}
		for _, s := range newPlan(seed, time.Minute, targets) {
			did[s.do]++
			require.Contains(t, targets, s.on)
			require.GreaterOrEqual(t, s.at, free[s.on], "%s", s)
			free[s.on] = s.at + s.lasts
			require.LessOrEqual(t, s.at+s.lasts, time.Minute+100*time.Millisecond)
			require.Equal(t, strings.Contains(s.on, linkArrow), slices.Contains([]fault{refuse, stall, lose}, s.do), "%s", s)
		}
	}
	require.Len(t, did, 7, "every kind of fault occurs: %v", did)
}

// echo answers every line with the same line.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := c.Write([]byte(line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// wire is one end of a proxied connection.
type wire struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, p *proxy) wire {
	t.Helper()
	c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p.port))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return wire{t, c, bufio.NewReader(c)}
}

// say sends a line and returns the answer; an error when none comes.
func (w wire) say(text string) (string, error) {
	w.t.Helper()
	_, _ = w.Write([]byte(text + "\n"))
	return w.hear(100 * time.Millisecond)
}

func (w wire) hear(patience time.Duration) (string, error) {
	w.t.Helper()
	require.NoError(w.t, w.SetReadDeadline(time.Now().Add(patience)))
	line, err := w.in.ReadString('\n')
	return strings.TrimSpace(line), err
}

func between(t *testing.T, choose func(l *link) func(net.Conn) (*link, []byte, error)) (*proxy, *link) {
	t.Helper()
	l := newLink()
	p := &proxy{server: echo(t), choose: choose(l)}
	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(t, p.open(ctx))
	t.Cleanup(func() {
		cancel()
		p.wg.Wait()
	})
	return p, l
}

func always(l *link) func(net.Conn) (*link, []byte, error) {
	return func(net.Conn) (*link, []byte, error) { return l, nil, nil }
}

func TestAWholeLinkPasses(t *testing.T) {
	t.Parallel()
	p, _ := between(t, always)
	heard, err := dial(t, p).say("hello")
	require.NoError(t, err)
	require.Equal(t, "hello", heard)
}

func TestACutLinkEndsConnectionsAndRefusesNewOnes(t *testing.T) {
	t.Parallel()
	p, l := between(t, always)
	w := dial(t, p)
	_, err := w.say("hello")
	require.NoError(t, err)
	l.set(refuse)
	_, err = w.hear(5 * time.Second)
	require.Error(t, err)
	_, err = dial(t, p).say("anybody?")
	require.Error(t, err)
	l.set("")
	heard, err := dial(t, p).say("back")
	require.NoError(t, err)
	require.Equal(t, "back", heard)
}

func TestAStalledLinkGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	p, l := between(t, always)
	w := dial(t, p)
	_, err := w.say("hello")
	require.NoError(t, err)
	l.set(stall)
	_, err = w.say("late")
	require.Error(t, err)
	l.set("")
	heard, err := w.hear(5 * time.Second)
	require.NoError(t, err)
	require.Equal(t, "late", heard)
}

func TestALinkThatLosesAnswersEndsWithItsConnections(t *testing.T) {
	t.Parallel()
	p, l := between(t, always)
	w := dial(t, p)
	_, err := w.say("hello")
	require.NoError(t, err)
	l.set(lose)
	_, err = w.say("unheard")
	require.Error(t, err)
	l.set("")
	heard, err := w.hear(5 * time.Second)
	require.Error(t, err, heard)
	require.Empty(t, heard, "the answer is gone for good")
}

func TestKafkaClientsAreToldApartByTheirID(t *testing.T) {
	t.Parallel()
	others := newLink()
	p, l := between(t, func(l *link) func(net.Conn) (*link, []byte, error) {
		return byClientID(map[string]*link{"order-service": l}, others)
	})
	l.set(refuse)
	request := func(id string) string {
		var b bytes.Buffer
		b.Write(make([]byte, 12))
		_ = binary.Write(&b, binary.BigEndian, int16(len(id)))
		b.WriteString(id)
		return b.String()
	}
	_, err := dial(t, p).say(request("order-service"))
	require.Error(t, err)
	heard, err := dial(t, p).say(request("payment-service"))
	require.NoError(t, err)
	require.Contains(t, heard, "payment-service")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	load := func(set map[string]string) (settings, error) {
		return loadSettings(func(name string) string { return set[name] })
	}
	s, err := load(map[string]string{"SEED": "4711", "DURATION": "1m", "SEEDS": "20"})
	require.NoError(t, err)
	require.Equal(t, uint64(4711), s.seed)
	require.Equal(t, 20, s.seeds)
	require.Equal(t, 2, s.platform.Replicas)
	require.Equal(t, 15000, s.platform.PortOffset)
	require.Equal(t, "make chaos SEED=7 DURATION=1m0s RATE=40 REPLICAS=2", replay(s, 7))
	_, err = load(map[string]string{"SEED": "x", "RATE": "0"})
	require.ErrorContains(t, err, "SEED")
	require.ErrorContains(t, err, "RATE")
}

func TestAServiceThatDiedByItselfIsNamed(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"order-service died by itself"}, deaths(`order-service          │ exit status 1
order-service          │ starting it again in 200ms
postgres-order         │ starting it again in 200ms
payment-service        │ was stopped
`))
}
