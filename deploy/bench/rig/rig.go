//go:build unix

// Package rig gives a benchmark a real PostgreSQL server with durable settings
// and a broker, each a process of its own, and databases and topics that no
// earlier run has touched.
package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/bench/measure"
	"github.com/tiffin-platform/tiffin/deploy/local/broker"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkaserver"
	"github.com/tiffin-platform/tiffin/pkg/pgserver"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// settings of the server: durable (fsync, synchronous_commit and full_page_writes
// are PostgreSQL's defaults, on), with memory and WAL so that neither checkpoints
// nor evictions decide what is compared. The same for every candidate.
var settings = map[string]string{
	"shared_buffers":  "512MB",
	"max_wal_size":    "4GB",
	"max_connections": "100",
}

// Partitions of every topic, as in the platform.
const Partitions = 12

// Rig is what runs.
type Rig struct {
	Kafka    kafka.Config
	Postgres string // its version
	Broker   string // what it is
	server   *pgserver.Server
	opts     pgserver.Options
	broker   *proc.Process
	dir      string
	names    atomic.Int64
}

// BrokerArg makes this program the embedded broker: its first argument, before
// the data directory and the port.
const BrokerArg = "broker"

// ServeBroker is what a program does when it was called with BrokerArg.
func ServeBroker(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: broker <data directory> <port>")
	}
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	return broker.Run(ctx, args[0], port, port, os.Stderr)
}

// Start starts both. realKafka takes Apache Kafka instead of the embedded
// broker, which is kept on disk too.
func Start(ctx context.Context, realKafka bool, getenv func(string) string, say func(string, ...any)) (_ *Rig, err error) {
	id, err := pgserver.Unprivileged()
	if err != nil {
		return nil, err
	}
	line := func(text string) { say("%s", text) }
	bin, err := pgserver.Finder{Getenv: getenv, Identity: id, Progress: line}.Find(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := pgserver.CacheDir(id)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cache, "bench-")
	if err != nil {
		return nil, err
	}
	r := &Rig{dir: dir, Postgres: bin.Version}
	defer func() {
		if err != nil {
			r.Stop()
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	r.opts = pgserver.Options{
		Binaries: bin, Identity: id, Data: filepath.Join(dir, "postgres"), Port: ports[0], User: "bench", Password: "bench",
		Settings: settings, Death: syscall.SIGQUIT,
	}
	if err := pgserver.Init(ctx, r.opts); err != nil {
		return nil, err
	}
	if r.server, err = pgserver.Start(ctx, r.opts); err != nil {
		return nil, err
	}
	if err := r.startBroker(ctx, realKafka, ports[1:], line); err != nil {
		return nil, err
	}
	say("PostgreSQL %s, %s, data in %s", r.Postgres, r.Broker, dir)
	return r, nil
}

func (r *Rig) startBroker(ctx context.Context, realKafka bool, ports []int, say func(string)) error {
	r.Kafka = kafka.Config{Brokers: []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}, Partitions: Partitions, Replication: 1}
	data := filepath.Join(r.dir, "broker")
	if realKafka {
		install, err := kafkaserver.Find(ctx, say)
		if err != nil {
			return err
		}
		server := kafkaserver.Server{Install: install, Dir: data, Port: ports[0], ControllerPort: ports[1]}
		r.Broker = "Apache Kafka " + kafkaserver.Version
		if r.broker, err = server.Start(ctx, os.Stderr); err != nil {
			return err
		}
		return server.WaitReady(ctx)
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r.Broker = "embedded broker (kfake) on disk"
	cmd := exec.Command(exe, BrokerArg, data, strconv.Itoa(ports[0]))
	if r.broker, err = proc.Start(cmd, syscall.SIGKILL); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(r.Kafka.Brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return measure.Until(ctx, func() (bool, error) { return client.Ping(ctx) == nil, nil })
}

// Stop ends both and removes their data.
func (r *Rig) Stop() {
	if r.broker != nil {
		r.broker.Stop(syscall.SIGTERM, 10*time.Second)
	}
	if r.server != nil {
		r.server.Stop()
	}
	_ = os.RemoveAll(r.dir)
}

// PostgresPid is the server's process, for its use of the processor.
func (r *Rig) PostgresPid() int { return r.server.Pid() }

// Name returns a name that was not used before, for a topic or a group.
func (r *Rig) Name(prefix string) string { return prefix + "-" + strconv.FormatInt(r.names.Add(1), 10) }

// Database makes an empty database and returns its URL. drop removes it; the
// checkpoint in it leaves the next candidate no dirty pages to write.
func (r *Rig) Database(ctx context.Context) (url string, drop func(), err error) {
	name := "bench_" + strconv.FormatInt(r.names.Add(1), 10)
	if err := r.admin(ctx, `create database `+name); err != nil {
		return "", nil, err
	}
	return r.opts.URL(name), func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_ = r.admin(ctx, `drop database `+name+` with (force)`)
		_ = r.admin(ctx, `checkpoint`)
	}, nil
}

func (r *Rig) admin(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, r.opts.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
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
