//go:build unix

package apachekafka

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
}

// Broker timeouts are short so that a killed node may come back within
// seconds: its old session must have ended. Everything internal has one replica
// and one partition, because there is one node.
const properties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[4]d
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%[3]s
auto.create.topics.enable=false
num.partitions=12
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
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
	if err := os.WriteFile(file, fmt.Appendf(nil, properties, s.Port, s.ControllerPort, logs, cmp.Or(s.ClientPort, s.Port)), 0o600); err != nil {
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

// format gives an empty directory its cluster id. One that was cut off is begun again.
func (s Server) format(ctx context.Context, file, logs string) error {
	if err := os.RemoveAll(logs); err != nil {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, s.Install.Java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", s.Install.Classpath,
		"kafka.tools.StorageTool", "format", "-t", base64.RawURLEncoding.EncodeToString(id), "-c", file)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("format Kafka's directory: %w\n%s", err, tail(out.String()))
	}
	return nil
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

func freePorts(n int) ([]int, error) {
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
