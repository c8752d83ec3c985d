//go:build unix

package runner

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/local/supervise"
	"github.com/tiffin-platform/tiffin/pkg/kafkaserver"
	"github.com/tiffin-platform/tiffin/pkg/pgserver"
	"github.com/tiffin-platform/tiffin/pkg/proc"
)

func (o Options) skips(name string) bool { return slices.Contains(o.Skip, name) }

// parts lists everything that runs, each after what it needs, and the ports.
func parts(o Options, p prepared) ([]supervise.Part, []use) {
	var list []supervise.Part
	var uses []use
	add := func(part supervise.Part, ports ...int) {
		part.After = slices.DeleteFunc(part.After, o.skips)
		list = append(list, part)
		for _, port := range ports {
			uses = append(uses, use{part.Name, port})
		}
	}
	for _, s := range services {
		if s.postgres != "" && !o.skips(s.postgres) {
			add(postgresPart(o, p, s), o.port(s.postgres))
		}
	}
	if !o.skips(kafkaPart) {
		if o.RealKafka {
			add(realKafka(o, p), o.port(kafkaPart), o.admin(kafkaPart))
		} else {
			add(embeddedBroker(o, p), o.port(kafkaPart))
		}
	}
	for _, s := range services {
		for n := range o.Replicas {
			if !o.skips(s.name) {
				move := n * secondReplica
				add(servicePart(o, p, s, n), o.port(s.name)+move, o.admin(s.name)+move)
			}
		}
	}
	return list, uses
}

func postgresPart(o Options, p prepared, s service) supervise.Part {
	return supervise.Part{
		Name: s.postgres,
		Start: func(ctx context.Context, out io.Writer) (*proc.Process, error) {
			server, err := pgserver.Start(ctx, pgserver.Options{
				Binaries: p.pg, Identity: p.identity, Data: filepath.Join(p.pgDir, s.postgres), Port: o.port(s.postgres),
				User: "tiffin", Password: "tiffin", Databases: []string{s.database},
				// Two replicas with a pool each, and somebody who looks.
				Settings: map[string]string{"max_connections": strconv.Itoa(20 + 20*o.Replicas), "log_min_messages": "warning"},
				Output:   out, Death: syscall.SIGINT,
			})
			if err != nil {
				return nil, err
			}
			return server.Process, nil
		},
		// Fast shutdown: it waits for no client.
		Signal: syscall.SIGINT, Grace: 10 * time.Second,
	}
}

func embeddedBroker(o Options, p prepared) supervise.Part {
	data := filepath.Join(o.Dir, "broker")
	return supervise.Part{
		Name: kafkaPart,
		Start: func(_ context.Context, out io.Writer) (*proc.Process, error) {
			cmd := exec.Command(filepath.Join(p.bin, runnerBinary), "broker", data, strconv.Itoa(o.port(kafkaPart)), strconv.Itoa(o.brokerAt()))
			cmd.Env = append([]string{"GOMAXPROCS=" + fewProcs()}, os.Environ()...)
			return startBound(o, kafkaPart, cmd, data, out, syscall.SIGTERM)
		},
		Ready: func(ctx context.Context) error { return pingBroker(ctx, o.Brokers()) },
	}
}

func realKafka(o Options, p prepared) supervise.Part {
	server := kafkaserver.Server{
		Install: p.kafka, Dir: filepath.Join(o.Dir, "kafka-"+kafkaserver.Version), Port: o.port(kafkaPart), ControllerPort: o.admin(kafkaPart),
		ClientPort: o.brokerAt(),
	}
	return supervise.Part{
		Name: kafkaPart,
		Start: func(ctx context.Context, out io.Writer) (*proc.Process, error) {
			process, err := server.Start(ctx, out)
			if err == nil {
				writePid(o, kafkaPart, process.Pid(), server.Dir)
			}
			return process, err
		},
		Ready: server.Ready, Grace: 20 * time.Second,
	}
}

func pingBroker(ctx context.Context, brokers []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return client.Ping(ctx)
}

func servicePart(o Options, p prepared, s service, n int) supervise.Part {
	name, move := instance(s.name, n), n*secondReplica
	after := []string{kafkaPart}
	if s.postgres != "" {
		after = append(after, s.postgres)
	}
	if s.name != "auth-service" {
		after = append(after, "auth-service") // whose keys all others verify with
	}
	if n > 0 {
		after = append(after, s.name) // which has migrated and made the first key
	}
	binary := filepath.Join(p.bin, s.name)
	settings := serviceEnv(o, s, n)
	ready := fmt.Sprintf("http://127.0.0.1:%d/readyz", o.admin(s.name)+move)
	return supervise.Part{
		Name: name, After: after,
		Start: func(_ context.Context, out io.Writer) (*proc.Process, error) {
			cmd := exec.Command(binary)
			cmd.Env = settings
			cmd.Dir = o.Dir
			// Services keep their promises under kill -9, and the databases
			// they would say goodbye to go at the same moment.
			return startBound(o, name, cmd, binary, out, syscall.SIGKILL)
		},
		Ready: func(ctx context.Context) error { return get(ctx, ready) },
		Grace: 20 * time.Second,
	}
}

// fewProcs is a process's share of the cores, of which a dozen make use: with
// more threads it mostly wakes those up. Measured on two cores with half of the
// load that they can take, an order is paid and notified in two thirds of the time.
func fewProcs() string { return strconv.Itoa(max(1, runtime.NumCPU()/4)) }

// serviceEnv is the environment of one replica: what the user has set, then
// the addresses, which follow from the options.
func serviceEnv(o Options, s service, n int) []string {
	move := n * secondReplica
	set := map[string]string{
		"LOG_FORMAT":              "text",
		"KAFKA_TOPIC_REPLICATION": "1",
	}
	if s.name != "auth-service" { // its hashing may have all cores, and is garbage of many MiB
		set["GOMAXPROCS"] = fewProcs()
		// As in docker-compose.yml. A service keeps a few MiB, which at Go's own
		// 100 % are marked several times per second: a tenth of the processor time
		// of 300 orders/s on two cores.
		set["GOGC"], set["GOMEMLIMIT"] = "400", "150MiB"
	}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		set[name] = value
	}
	maps.Copy(set, map[string]string{
		"HTTP_ADDR":     fmt.Sprintf("127.0.0.1:%d", o.port(s.name)+move),
		"ADMIN_ADDR":    fmt.Sprintf("127.0.0.1:%d", o.admin(s.name)+move),
		"KAFKA_BROKERS": strings.Join(o.Brokers(), ","),
		"JWKS_URL":      local(o.port("auth-service")) + "/.well-known/jwks.json",
	})
	switch s.name {
	case "gateway":
		set["GATEWAY_REPLICAS"] = strconv.Itoa(o.Replicas)
		for _, up := range services {
			if up.url == "" {
				continue
			}
			addresses := []string{local(o.port(up.name))}
			if o.Replicas > 1 && !o.skips(up.name) {
				addresses = append(addresses, local(o.port(up.name)+secondReplica))
			}
			set[up.url] = strings.Join(addresses, ",")
		}
	case "order-service":
		set["SEED_DEMO_DATA"] = "true"
	case "auth-service":
		set["AUTH_ADMIN_EMAIL"], set["AUTH_ADMIN_PASSWORD"] = AdminEmail, AdminPassword
	}
	if s.database != "" {
		set["DATABASE_URL"] = o.DatabaseURL(s.name)
	}
	maps.Copy(set, o.Env)
	maps.Copy(set, o.ServiceEnv[s.name])
	maps.Copy(set, o.ServiceEnv[instance(s.name, n)])
	var list []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		list = append(list, name+"="+set[name])
	}
	return list
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true // a connection per look: nothing to keep when the run ends
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return fmt.Errorf("%s answers %s %s", url, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// startBound starts a process that dies with us and notes its id for where the
// kernel does not see to that.
func startBound(o Options, part string, cmd *exec.Cmd, marker string, out io.Writer, death syscall.Signal) (*proc.Process, error) {
	cmd.Stdout, cmd.Stderr = out, out
	p, err := proc.Start(cmd, death)
	if err == nil {
		writePid(o, part, p.Pid(), marker)
	}
	return p, err
}

func writePid(o Options, part string, pid int, marker string) {
	// Without it only the search for strays is blind.
	_ = os.WriteFile(filepath.Join(o.Dir, "run", part+".pid"), fmt.Appendf(nil, "%d\n%s\n", pid, marker), 0o600)
}
