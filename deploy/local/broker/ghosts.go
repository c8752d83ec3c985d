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

// ghosts are group members that nothing removes: kfake starts a member's session
// timer only when it has answered its JoinGroup, so one that was killed while it
// waited for that answer stays, and keeps its share of the partitions for ever.
// Kafka starts the timer anyway. What a client sends is noted, and who has sent
// nothing for a whole session, in a group that is stable, is made to leave.
type ghosts struct {
	cluster *kfake.Cluster
	client  *kgo.Client

	mu     sync.Mutex
	groups map[string]map[string]*life // by group and member
}

// life is what is known of a member.
type life struct {
	session time.Duration
	seen    time.Time
}

// stability is since when a generation of a group has been stable.
type stability struct {
	generation int32
	since      time.Time
}

func newGhosts(cluster *kfake.Cluster, client *kgo.Client) *ghosts {
	g := &ghosts{cluster: cluster, client: client, groups: map[string]map[string]*life{}}
	cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat}, Count: -1, Observe: true,
		When: func(req kmsg.Request) bool {
			switch r := req.(type) {
			case *kmsg.JoinGroupRequest:
				g.note(r.Group, r.MemberID, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
			case *kmsg.SyncGroupRequest:
				g.note(r.Group, r.MemberID, 0)
			case *kmsg.HeartbeatRequest:
				g.note(r.Group, r.MemberID, 0)
			}
			return true
		},
	})
	return g
}

func (g *ghosts) note(group, member string, session time.Duration) {
	if member == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.groups[group] == nil {
		g.groups[group] = map[string]*life{}
	}
	l := g.groups[group][member]
	if l == nil {
		l = &life{session: 10 * time.Second}
		g.groups[group][member] = l
	}
	l.seen = time.Now()
	if session > 0 {
		l.session = session
	}
}

// run lays the ghosts until ctx ends.
func (g *ghosts) run(ctx context.Context, log func(group, member string, err error)) {
	const every = 500 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	stable := map[string]stability{}
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(last) > 4*every {
			clear(stable) // this process was stopped: what members sent meanwhile is still to be read
		}
		last = now
		for group, members := range g.silent(now, stable) {
			for _, member := range members {
				log(group, member, g.evict(ctx, group, member))
			}
		}
	}
}

// silent returns the members that should have sent something by now.
func (g *ghosts) silent(now time.Time, stable map[string]stability) map[string][]string {
	g.mu.Lock()
	var names []string
	for group := range g.groups {
		names = append(names, group)
	}
	g.mu.Unlock()
	found := map[string][]string{}
	for _, group := range names {
		// Asked without the lock, which the cluster waits for in note.
		info := g.cluster.GroupInfo(group)
		if info == nil || info.State != "Stable" {
			delete(stable, group)
			continue
		}
		// A follower may hear of its generation when that is stable already.
		if s := stable[group]; s.since.IsZero() || s.generation != info.Epoch {
			stable[group] = stability{info.Epoch, now}
		}
		g.mu.Lock()
		known := map[string]*life{}
		for _, m := range info.Members {
			l := g.groups[group][m.MemberID]
			if l == nil { // from before a restart
				l = &life{session: 10 * time.Second}
			}
			known[m.MemberID] = l
			if now.Sub(l.seen) > l.session && now.Sub(stable[group].since) > l.session {
				found[group] = append(found[group], m.MemberID)
			}
		}
		g.groups[group] = known
		g.mu.Unlock()
	}
	return found
}

func (g *ghosts) evict(ctx context.Context, group, member string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = member
	req.Members = append(req.Members, m)
	if _, err := req.RequestWith(ctx, g.client); err != nil {
		return fmt.Errorf("remove member %s of %s: %w", member, group, err)
	}
	return nil
}
