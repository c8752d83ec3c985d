//go:build unix

package kafkaserver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

const sigTerm = syscall.SIGTERM

// Server is one node with its data in Dir.
type Server struct {
	Install              Install
	Dir                  string
	Port, ControllerPort int
	ClientPort           int // the port that clients are told to connect to; 0 is Port

	// Of a cluster of several: the node's number from 1, and the ControllerPort
	// of every node in the order of their numbers. Without them it is the only one.
	Node   int
	Voters []int
	// ClusterID is given to an empty directory, 22 characters of base64. Nodes of
	// one cluster share it; "" is a random one.
	ClusterID string
}

// Broker timeouts are short so that a killed node may come back within
// seconds: its old session must have ended. Internal topics have one partition,
// and as many replicas as the others.
const properties = `process.roles=broker,controller
node.id=%[5]d
controller.quorum.voters=%[6]s
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
unclean.leader.election.enable=false
replica.lag.time.max.ms=5000
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[4]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%[3]s
auto.create.topics.enable=false
num.partitions=12
default.replication.factor=%[7]d
min.insync.replicas=%[8]d
offsets.topic.replication.factor=%[7]d
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=%[7]d
transaction.state.log.min.isr=%[8]d
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=%[7]d
share.coordinator.state.topic.min.isr=%[8]d
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.dedupe.buffer.size=4194304
log.retention.hours=168
`

// Start starts the node, formatting its directory the first time.
func (s Server) Start(ctx context.Context, out io.Writer) (*proc.Process, error) {
	return s.start(ctx, out)
}

func (s Server) start(ctx context.Context, out io.Writer, jvm ...string) (*proc.Process, error) {
	file := filepath.Join(s.Dir, "server.properties")
	logs := filepath.Join(s.Dir, "log")
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, s.properties(logs), 0o600); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(logs, "meta.properties")); err != nil {
		if err := s.format(ctx, file, logs); err != nil {
			return nil, err
		}
	}
	args := []string{"-Xmx512m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}
	args = append(args, jvm...)
	if s.Install.Archive != "" {
		args = append(args, "-XX:SharedArchiveFile="+s.Install.Archive, "-Xshare:auto")
	}
	args = append(args, "-cp", s.Install.Classpath, "kafka.Kafka", file)
	cmd := exec.Command(s.Install.Java, args...)
	cmd.Dir = s.Dir
	cmd.Stdout, cmd.Stderr = out, out
	return proc.Start(cmd, syscall.SIGTERM)
}

func (s Server) properties(logs string) []byte {
	ports := s.Voters
	if len(ports) == 0 {
		ports = []int{s.ControllerPort}
	}
	voters := make([]string, len(ports))
	for i, port := range ports {
		voters[i] = fmt.Sprintf("%d@127.0.0.1:%d", i+1, port)
	}
	// One replica may be away, as in production: two of three have every record.
	replicas := min(len(ports), 3)
	return fmt.Appendf(nil, properties, s.Port, s.ControllerPort, logs, cmp.Or(s.ClientPort, s.Port),
		cmp.Or(s.Node, 1), strings.Join(voters, ","), replicas, max(1, replicas-1))
}

// format gives an empty directory its cluster id. One that was cut off is begun again.
func (s Server) format(ctx context.Context, file, logs string) error {
	if err := os.RemoveAll(logs); err != nil {
		return err
	}
	id := s.ClusterID
	if id == "" {
		id = NewClusterID()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, s.Install.Java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", s.Install.Classpath,
		"kafka.tools.StorageTool", "format", "-t", id, "-c", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("format Kafka's directory: %w\n%s", err, tail(out.String()))
	}
	return nil
}

// NewClusterID returns a random ClusterID.
func NewClusterID() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	id[0] &= 0x7f // no leading dash, which would be an option
	return base64.RawURLEncoding.EncodeToString(id)
}

// Ready returns nil when the node answers clients.
func (s Server) Ready(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(fmt.Sprintf("127.0.0.1:%d", s.Port)), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return client.Ping(ctx)
}

// WaitReady waits for Ready.
func (s Server) WaitReady(ctx context.Context) error {
	for {
		err := s.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("broker on port %d is not ready: %w", s.Port, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// FreePorts returns ports of the loopback that nobody listens on just now.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // all at the end, so that they differ
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, errors.New("no TCP address")
		}
		ports = append(ports, addr.Port)
	}
	return ports, nil
}

// moveFile copies, because the two may be on different file systems, and
// renames, so that the target is whole.
func moveFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to + ".new")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}
