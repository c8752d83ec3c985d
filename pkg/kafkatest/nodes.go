//go:build unix

package kafkatest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkaserver"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// Nodes is an Apache Kafka of one node or several, whose data goes when it stops.
// From three nodes on, every topic has three replicas and a record is
// acknowledged by two.
type Nodes struct {
	dir     string
	servers []kafkaserver.Server
	procs   []*proc.Process
	out     output
}

// startNodes starts n nodes and waits until they answer.
func startNodes(n int) (*Nodes, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // a first time downloads
	defer cancel()
	install, err := kafkaserver.Find(ctx, func(line string) { fmt.Fprintln(os.Stderr, line) })
	if err != nil {
		return nil, err
	}
	ports, err := kafkaserver.FreePorts(2 * n)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tiffin-kafkatest-")
	if err != nil {
		return nil, err
	}
	c := &Nodes{dir: dir, procs: make([]*proc.Process, n)}
	id := kafkaserver.NewClusterID()
	for i := range n {
		c.servers = append(c.servers, kafkaserver.Server{
			Install: install, Dir: filepath.Join(dir, fmt.Sprint(i)), Port: ports[i], ControllerPort: ports[n+i],
			Node: i + 1, Voters: ports[n:], ClusterID: id,
		})
	}
	for i := range n {
		if err := c.Launch(i); err != nil {
			c.Stop()
			return nil, err
		}
	}
	for _, s := range c.servers {
		if err := s.WaitReady(ctx); err != nil {
			c.Stop()
			return nil, fmt.Errorf("%w\n%s", err, c.Said())
		}
	}
	return c, nil
}

// Launch starts node i without waiting for it.
func (c *Nodes) Launch(i int) (err error) {
	c.procs[i], err = c.servers[i].Start(context.Background(), &c.out)
	return err
}

// Addrs are where the nodes listen.
func (c *Nodes) Addrs() []string {
	var addrs []string
	for _, s := range c.servers {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", s.Port))
	}
	return addrs
}

func (c *Nodes) config() kafka.Config {
	return kafka.Config{Brokers: c.Addrs(), Partitions: 3, Replication: -1}
}

// Kill kills node i as a power cut would.
func (c *Nodes) Kill(i int) { c.procs[i].Stop(syscall.SIGKILL, time.Minute) }

// Restart starts a node that was killed and waits until it answers.
func (c *Nodes) Restart(ctx context.Context, i int) error {
	if err := c.Launch(i); err != nil {
		return err
	}
	return c.servers[i].WaitReady(ctx)
}

// Stop kills all nodes, which keep nothing, and removes their data.
func (c *Nodes) Stop() {
	for i, p := range c.procs {
		if p != nil {
			c.Kill(i)
		}
	}
	_ = os.RemoveAll(c.dir)
}

// Said returns the end of what the nodes logged.
func (c *Nodes) Said() string {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return string(c.out.b)
}

// output keeps the end of what several processes write.
type output struct {
	mu sync.Mutex
	b  []byte
}

func (o *output) Write(b []byte) (int, error) {
	const most = 8 << 10
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b, b...)
	o.b = o.b[max(0, len(o.b)-most):]
	return len(b), nil
}
