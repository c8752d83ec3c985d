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
	t      *testing.T
	client *kgo.Client
	id     string
}

const ghostGroup = "haunted"

func newMember(t *testing.T, port int) *member {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:"+strconv.Itoa(port)), kgo.RetryTimeout(20*time.Second))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return &member{t: t, client: client}
}

// join asks to join; the first time the broker only gives an id.
func (m *member) join() *kmsg.JoinGroupResponse {
	m.t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = ghostGroup, m.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 1000, 60_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", (&kmsg.ConsumerMemberMetadata{Topics: []string{"order.created"}}).AppendTo(nil)
	req.Protocols = append(req.Protocols, p)
	resp, err := req.RequestWith(m.t.Context(), m.client)
	if err != nil {
		return nil // the client was closed meanwhile
	}
	m.id = resp.MemberID
	return resp
}

func (m *member) sync(generation int32) {
	m.t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = ghostGroup, m.id, generation
	resp, err := req.RequestWith(m.t.Context(), m.client)
	require.NoError(m.t, err)
	require.NoError(m.t, kerr.ErrorForCode(resp.ErrorCode))
}

func (m *member) heartbeat(generation int32) error {
	m.t.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = ghostGroup, m.id, generation
	resp, err := req.RequestWith(m.t.Context(), m.client)
	require.NoError(m.t, err)
	return kerr.ErrorForCode(resp.ErrorCode)
}

func TestAMemberThatDiesWhileItJoinsLosesItsPartitions(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	stop := serve(t, t.TempDir(), port)
	defer stop()
	living, dying := newMember(t, port), newMember(t, port)
	admin := kadm.NewClient(living.client)
	require.Eventually(t, func() bool { // until it serves
		topics, err := admin.ListTopics(t.Context())
		return err == nil && len(topics) == len(Topics())
	}, time.Minute, 10*time.Millisecond)
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
		groups, err := admin.DescribeGroups(t.Context(), ghostGroup)
		require.NoError(t, err)
		members := groups[ghostGroup].Members
		return len(members) == 1 && members[0].MemberID == living.id
	}, 20*time.Second, 50*time.Millisecond)
}
