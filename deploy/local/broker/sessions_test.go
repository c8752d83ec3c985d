package broker

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// member speaks the group protocol by hand.
type member struct {
	t       *testing.T
	client  *kgo.Client
	id      string
	session time.Duration
}

const testGroup = "a-group"

func newMember(t *testing.T, port int, session time.Duration) *member {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:"+strconv.Itoa(port)), kgo.RetryTimeout(20*time.Second))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return &member{t: t, client: client, session: session}
}

// join asks to join; the first time the broker only gives an id.
func (m *member) join() *kmsg.JoinGroupResponse {
	m.t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = testGroup, m.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(m.session.Milliseconds()), 60_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", (&kmsg.ConsumerMemberMetadata{Topics: []string{"order.created"}}).AppendTo(nil)
	req.Protocols = append(req.Protocols, p)
	resp, err := req.RequestWith(m.t.Context(), m.client)
	if err != nil {
		return nil // the client was closed meanwhile
	}
	if m.id == "" {
		m.id = resp.MemberID
	}
	return resp
}

func (m *member) sync(generation int32) {
	m.t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = testGroup, m.id, generation
	resp, err := req.RequestWith(m.t.Context(), m.client)
	require.NoError(m.t, err)
	require.NoError(m.t, kerr.ErrorForCode(resp.ErrorCode))
}

func (m *member) heartbeat(generation int32) error {
	m.t.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = testGroup, m.id, generation
	resp, err := req.RequestWith(m.t.Context(), m.client)
	require.NoError(m.t, err)
	return kerr.ErrorForCode(resp.ErrorCode)
}

// served is the port of a broker that has its topics.
func served(t *testing.T) int {
	t.Helper()
	port := freePort(t)
	t.Cleanup(serve(t, t.TempDir(), port))
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:" + strconv.Itoa(port)))
	require.NoError(t, err)
	defer client.Close()
	require.Eventually(t, func() bool {
		topics, err := kadm.NewClient(client).ListTopics(t.Context())
		return err == nil && len(topics) == len(Topics())
	}, time.Minute, 10*time.Millisecond)
	return port
}

func TestAMemberThatDiesWhileItJoinsLosesItsPartitions(t *testing.T) {
	t.Parallel()
	port := served(t)
	living, dying := newMember(t, port, time.Second), newMember(t, port, time.Second)
	admin := kadm.NewClient(living.client)
	require.Equal(t, kerr.MemberIDRequired.Code, living.join().ErrorCode)
	first := living.join()
	require.Zero(t, first.ErrorCode)
	living.sync(first.Generation)

	require.Equal(t, kerr.MemberIDRequired.Code, dying.join().ErrorCode)
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		dying.join() // waits until the other one joins again
	}()
	require.Eventually(t, func() bool {
		return living.heartbeat(first.Generation) != nil // told to join again
	}, 10*time.Second, 20*time.Millisecond)
	dying.client.Close()
	<-waiting
	second := living.join()
	require.Zero(t, second.ErrorCode)
	require.Len(t, second.Members, 2, "the dead one is in it")
	living.sync(second.Generation)

	require.Eventually(t, func() bool {
		_ = living.heartbeat(second.Generation)
		groups, err := admin.DescribeGroups(t.Context(), testGroup)
		require.NoError(t, err)
		members := groups[testGroup].Members
		return len(members) == 1 && members[0].MemberID == living.id
	}, 20*time.Second, 50*time.Millisecond)
}

// A replica is killed and started again: the other one asks to join at once and
// waits for the dead one, for longer than its own session lasts.
func TestAMemberThatWaitsForADeadOneIsAnswered(t *testing.T) {
	t.Parallel()
	port := served(t)
	living, dead, restarted := newMember(t, port, time.Second), newMember(t, port, 4*time.Second), newMember(t, port, time.Second)
	require.Equal(t, kerr.MemberIDRequired.Code, living.join().ErrorCode)
	first := living.join()
	require.Zero(t, first.ErrorCode)
	living.sync(first.Generation)
	second := living.joinAfter(dead, first.Generation)
	living.sync(second.Generation)
	dead.sync(second.Generation)
	// Nothing more comes from the dead one.
	third := living.joinAfter(restarted, second.Generation)
	require.Len(t, third.Members, 2)
	for _, m := range third.Members {
		require.NotEqual(t, dead.id, m.MemberID)
	}
}

// joinAfter joins again because another member does.
func (m *member) joinAfter(other *member, generation int32) *kmsg.JoinGroupResponse {
	m.t.Helper()
	require.Equal(m.t, kerr.MemberIDRequired.Code, other.join().ErrorCode)
	answers := make(chan *kmsg.JoinGroupResponse, 2)
	go func() { answers <- other.join() }()
	require.Eventually(m.t, func() bool { return m.heartbeat(generation) != nil }, 10*time.Second, 20*time.Millisecond)
	go func() { answers <- m.join() }()
	var mine *kmsg.JoinGroupResponse
	for range 2 {
		select {
		case a := <-answers:
			require.NotNil(m.t, a)
			require.Zero(m.t, a.ErrorCode)
			if a.MemberID == m.id {
				mine = a
			}
		case <-time.After(20 * time.Second):
			require.FailNow(m.t, "a member that joins is not answered")
		}
	}
	require.Equal(m.t, m.id, mine.LeaderID)
	return mine
}
