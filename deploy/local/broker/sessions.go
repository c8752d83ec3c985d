package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// defaultSession is that of a member whose request to join nobody here heard:
	// it is from before a restart.
	defaultSession = 10 * time.Second
	// never is the session that kfake is told of.
	never = 30 * time.Minute
)

// sessions ends those of group members, in place of kfake, whose own timers err
// on both sides. One runs on while a member waits for the answer to its
// JoinGroup: after ten seconds kfake forgets the member and never answers it.
// None runs for a member that was killed while it waited: kfake keeps it, and
// its share of the partitions, for ever. In Kafka a session rests while its
// member waits, and goes on with the answer, whether or not that arrives.
type sessions struct {
	cluster *kfake.Cluster
	client  *kgo.Client

	mu     sync.Mutex
	groups map[string]map[string]*session // by group and member
}

// session is what is known of a member.
type session struct {
	timeout time.Duration
	seen    time.Time // when it sent something, or last waited for an answer
	asked   kmsg.Key  // what it sent last
	epoch   int32     // of the group soon after that, -1 before it was looked at
}

// waits tells whether the member has yet to be answered: the broker keeps its
// answer back until all have joined, which begins an epoch, or until the leader
// has sent the plan.
func (s *session) waits(group *kfake.GroupInfo) bool {
	if s.epoch < 0 {
		s.epoch = group.Epoch
	}
	return s.epoch == group.Epoch &&
		(group.State == "PreparingRebalance" && s.asked == kmsg.JoinGroup ||
			group.State == "CompletingRebalance" && s.asked == kmsg.SyncGroup)
}

func newSessions(cluster *kfake.Cluster, client *kgo.Client) *sessions {
	s := &sessions{cluster: cluster, client: client, groups: map[string]map[string]*session{}}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat} {
		cluster.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			switch r := req.(type) {
			case *kmsg.JoinGroupRequest:
				s.note(r.Group, r.MemberID, kmsg.JoinGroup, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
				r.SessionTimeoutMillis = int32(never.Milliseconds())
			case *kmsg.SyncGroupRequest:
				s.note(r.Group, r.MemberID, kmsg.SyncGroup, 0)
			case *kmsg.HeartbeatRequest:
				s.note(r.Group, r.MemberID, kmsg.Heartbeat, 0)
			}
			return nil, nil, false
		})
	}
	return s
}

func (s *sessions) note(group, member string, asked kmsg.Key, timeout time.Duration) {
	if member == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[group] == nil {
		s.groups[group] = map[string]*session{}
	}
	m := s.groups[group][member]
	if m == nil {
		m = &session{timeout: defaultSession}
		s.groups[group][member] = m
	}
	m.asked, m.seen, m.epoch = asked, time.Now(), -1
	if timeout > 0 {
		m.timeout = timeout
	}
}

// run ends sessions until ctx does.
func (s *sessions) run(ctx context.Context, log func(group, member string, err error)) {
	const every = 250 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		// After a stop of this process, what members sent meanwhile is still to be
		// read.
		stopped := now.Sub(last) > 8*every
		last = now
		for group, members := range s.silent(now, stopped) {
			for _, member := range members {
				log(group, member, s.end(ctx, group, member))
			}
		}
	}
}

// silent returns the members whose time is over. With again all begin anew.
func (s *sessions) silent(now time.Time, again bool) map[string][]string {
	s.mu.Lock()
	names := make([]string, 0, len(s.groups))
	for group := range s.groups {
		names = append(names, group)
	}
	s.mu.Unlock()
	found := map[string][]string{}
	for _, group := range names {
		// Asked without the lock, which the cluster waits for in note.
		info := s.cluster.GroupInfo(group)
		s.mu.Lock()
		known := s.groups[group]
		s.groups[group] = map[string]*session{}
		for id, k := range known {
			if k.seen.After(now) { // joined while the cluster was asked
				s.groups[group][id] = k
			}
		}
		if info != nil {
			for _, m := range info.Members {
				k := known[m.MemberID]
				if k == nil {
					k = &session{timeout: defaultSession, seen: now}
				}
				if k.waits(info) || again {
					k.seen = now
				}
				if now.Sub(k.seen) > k.timeout {
					found[group] = append(found[group], m.MemberID)
				}
				s.groups[group][m.MemberID] = k
			}
		}
		s.mu.Unlock()
	}
	return found
}

// end makes a member leave.
func (s *sessions) end(ctx context.Context, group, member string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = member
	req.Members = append(req.Members, m)
	if _, err := req.RequestWith(ctx, s.client); err != nil {
		return fmt.Errorf("remove member %s of %s: %w", member, group, err)
	}
	return nil
}
