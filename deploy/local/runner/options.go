//go:build unix

// Package runner runs the whole platform on one machine without Docker: four
// real PostgreSQL servers, a broker and the five service binaries, each as a
// process of its own on the ports that compose uses too.
package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/tiffin-platform/tiffin/pkg/env"
)

// The first Admin of the local platform. A development password: the ports
// listen on loopback only.
const (
	AdminEmail    = "admin@tiffin.local"
	AdminPassword = "tiffin-dev-admin"
)

// Options of a run. The zero value is what `make run` does, silently.
type Options struct {
	// Root is the repository; found from the working directory when empty.
	Root string
	// Dir holds data, logs and binaries; by default .tiffin in Root, and with
	// a port offset .tiffin/offset-<n>, so that two runs share nothing.
	Dir string
	// PortOffset is added to every port.
	PortOffset int
	// Replicas of every service, 1 or 2.
	Replicas int
	// Skip names parts that somebody else runs.
	Skip []string
	// RealKafka runs Apache Kafka instead of the embedded broker.
	RealKafka bool
	// NoRestart ends the run when a part dies.
	NoRestart bool
	// Verbose shows every line of every part, not only warnings and errors.
	Verbose bool
	// BrokerAt is the port on which clients reach the broker, its own by default.
	// The broker names it to them, so that all of their connections may go
	// through something that listens there.
	BrokerAt int
	// Env is set for every service, ServiceEnv for one, over everything else; its
	// keys are services, or single replicas (order-service-2).
	Env        map[string]string
	ServiceEnv map[string]map[string]string
	// Out gets the progress; nil discards it.
	Out io.Writer

	getenv func(string) string
}

// OptionsFrom reads TIFFIN_DIR, TIFFIN_PORT_OFFSET, REPLICAS, SKIP, KAFKA and
// RESTART. Offsets stay below the ports that systems give to connections.
func OptionsFrom(getenv func(string) string) (Options, error) {
	r := env.New(getenv)
	o := Options{
		Dir:        r.String("TIFFIN_DIR", ""),
		PortOffset: r.Int("TIFFIN_PORT_OFFSET", 0, -4000, 22000),
		Replicas:   r.Int("REPLICAS", 1, 1, 2),
		Skip:       r.List("SKIP"),
		RealKafka:  r.OneOf("KAFKA", "embedded", "embedded", "real") == "real",
		NoRestart:  !r.Bool("RESTART", true),
		getenv:     getenv,
	}
	names := slices.Sorted(maps.Keys(portsOf))
	for _, name := range o.Skip {
		if _, ok := portsOf[name]; !ok {
			r.Fail("SKIP", "there is no part %q, only %v", name, names)
		}
	}
	return o, r.Err()
}

// complete fills in what was left out.
func (o Options) complete() (Options, error) {
	if o.getenv == nil {
		o.getenv = os.Getenv
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	o.Replicas = max(1, o.Replicas)
	if o.Root == "" {
		root, err := findRoot()
		if err != nil {
			return o, err
		}
		o.Root = root
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(o.Root, ".tiffin")
		if o.PortOffset != 0 {
			o.Dir = filepath.Join(o.Dir, "offset-"+strconv.Itoa(o.PortOffset))
		}
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, err
	}
	o.Dir = dir
	return o, nil
}

// findRoot looks for the repository upwards from the working directory.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, gateway := os.Stat(filepath.Join(dir, "gateway", "go.mod"))
		_, deploy := os.Stat(filepath.Join(dir, "deploy", "go.mod"))
		if gateway == nil && deploy == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("run this inside the repository: no directory above holds gateway/ and deploy/")
		}
		dir = filepath.Dir(dir)
	}
}

// ports of a part: what it serves, and what it is looked at with.
type ports struct{ main, admin int }

// service describes one of ours.
type service struct {
	name     string
	url      string // the gateway's setting that holds its addresses
	postgres string // its database server, "" without
	database string
}

var services = []service{
	{"auth-service", "AUTH_URL", "postgres-auth", "auth_db"},
	{"order-service", "ORDER_URL", "postgres-order", "order_db"},
	{"payment-service", "PAYMENT_URL", "postgres-payment", "payment_db"},
	{"notification-service", "NOTIFICATION_URL", "postgres-notification", "notification_db"},
	{"gateway", "", "", ""},
}

const (
	kafkaPart = "kafka"
	// secondReplica is added to both ports of a second replica.
	secondReplica = 1000
)

var portsOf = map[string]ports{
	"gateway":               {5000, 5100},
	"auth-service":          {5001, 5101},
	"order-service":         {5002, 5102},
	"payment-service":       {5003, 5103},
	"notification-service":  {5004, 5104},
	"postgres-order":        {5433, 0},
	"postgres-payment":      {5434, 0},
	"postgres-notification": {5435, 0},
	"postgres-auth":         {5436, 0},
	kafkaPart:               {9092, 9093}, // the second is Apache Kafka's controller
}

func (o Options) port(part string) int  { return portsOf[part].main + o.PortOffset }
func (o Options) admin(part string) int { return portsOf[part].admin + o.PortOffset }

// instance names the nth replica of a service, from 0.
func instance(name string, n int) string {
	if n == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(n+1)
}

// GatewayURL is where the platform is reached.
func (o Options) GatewayURL() string { return local(o.port("gateway")) }

// GatewayURLs are the addresses of all replicas of the gateway.
func (o Options) GatewayURLs() []string {
	var urls []string
	for n := range max(1, o.Replicas) {
		urls = append(urls, local(o.port("gateway")+n*secondReplica))
	}
	return urls
}

// Brokers are the Kafka addresses.
func (o Options) Brokers() []string { return []string{fmt.Sprintf("localhost:%d", o.brokerAt())} }

func (o Options) brokerAt() int { return cmp.Or(o.BrokerAt, o.port(kafkaPart)) }

// BrokerPort is the port that the broker itself listens on.
func (o Options) BrokerPort() int { return o.port(kafkaPart) }

// DatabaseURL returns the connection URL of a service's database.
func (o Options) DatabaseURL(serviceName string) string {
	for _, s := range services {
		if s.name == serviceName && s.postgres != "" {
			return fmt.Sprintf("postgres://tiffin:tiffin@localhost:%d/%s?sslmode=disable", o.port(s.postgres), s.database)
		}
	}
	return ""
}

func local(port int) string { return fmt.Sprintf("http://localhost:%d", port) }

func plural(n int, one, many string) string {
	return strconv.Itoa(n) + " " + map[bool]string{true: one, false: many}[n == 1]
}
