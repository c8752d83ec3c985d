//go:build unix

package gateway

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

const (
	stopSignal = syscall.SIGTERM
	killSignal = syscall.SIGKILL
	bareName   = "httputil.ReverseProxy, bare"
)

// contender is a proxy that can be started on a port.
type contender struct {
	name   string
	tokens bool // it can verify them
	start  func(ctx context.Context, port int) (*proc.Process, error)
}

func (c contender) label(w work) string {
	if w.token && !c.tokens {
		return c.name + ", no token and no limit"
	}
	return c.name
}

// contenders builds ours and finds the others. What is not installed is said
// and left out.
func (b *bench) contenders(ctx context.Context, out io.Writer) ([]contender, error) {
	folder, err := moduleFolder(ctx)
	if err != nil {
		return nil, err
	}
	gateway, err := b.build(ctx, filepath.Join(folder, "..", "..", "gateway"), ".", "gateway")
	if err != nil {
		return nil, err
	}
	bare, err := b.build(ctx, folder, "./bareproxy", "bareproxy")
	if err != nil {
		return nil, err
	}
	all := []contender{
		{name: "Tiffin", tokens: true, start: func(_ context.Context, port int) (*proc.Process, error) { return b.tiffin(gateway, port) }},
		{name: bareName, start: func(_ context.Context, port int) (*proc.Process, error) {
			return b.start(0, []string{"GOMAXPROCS=1"}, bare, b.addr(port), b.upstreamURL())
		}},
	}
	for _, other := range []struct {
		name, version string
		tokens        bool
		config        func(port int) string
		args          func(file string) []string
	}{
		{"haproxy", "-v", true, b.haproxy, func(file string) []string { return []string{"-db", "-f", file} }},
		{"nginx", "-v", false, b.nginx, func(file string) []string { return []string{"-p", b.dir, "-e", "stderr", "-c", file} }},
	} {
		path, err := exec.LookPath(other.name)
		if err != nil {
			_, _ = fmt.Fprintf(out, "%s is not installed: left out\n", other.name)
			continue
		}
		text, err := exec.CommandContext(ctx, path, other.version).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", path, other.version, err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		_, _ = fmt.Fprintln(out, strings.TrimSpace(line))
		all = append(all, contender{name: other.name, tokens: other.tokens, start: func(_ context.Context, port int) (*proc.Process, error) {
			file := filepath.Join(b.dir, fmt.Sprintf("%s-%d.conf", other.name, port))
			if err := os.WriteFile(file, []byte(other.config(port)), 0o644); err != nil {
				return nil, err
			}
			return b.start(0, nil, path, other.args(file)...)
		}})
	}
	return all, nil
}

func moduleFolder(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tiffin-platform/tiffin/deploy/bench")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	text, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run this in deploy/bench (make bench BENCH=gateway): %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (b *bench) build(ctx context.Context, folder, what, name string) (string, error) {
	to := filepath.Join(b.dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", to, what)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, text)
	}
	return to, nil
}

func (b *bench) upstreamURL() string { return "http://" + b.addr(b.upstream) }

// tiffin runs our gateway with the limit per user at work and too high to
// refuse anybody. The limit per address stays off, for all come from one.
func (b *bench) tiffin(binary string, port int) (*proc.Process, error) {
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	return b.start(0, []string{
		"GOMAXPROCS=1", "HTTP_ADDR=" + b.addr(port), "ADMIN_ADDR=" + b.addr(admin), "JWKS_URL=" + b.keys.jwks, "LOG_LEVEL=warn",
		"AUTH_URL=" + b.upstreamURL(), "ORDER_URL=" + b.upstreamURL(), "PAYMENT_URL=" + b.upstreamURL(), "NOTIFICATION_URL=" + b.upstreamURL(),
		"RATE_LIMIT_IP=off", "RATE_LIMIT_LOGIN=off", "RATE_LIMIT_USER=1000000/s",
	}, binary)
}

// haproxy does the same work in its own language: the token's algorithm,
// signature, issuer, audience and end, and a count per subject.
func (b *bench) haproxy(port int) string {
	return fmt.Sprintf(`global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind %[1]s
  acl open path_beg /restaurants
  http-request set-var(txn.token) http_auth_bearer unless open
  http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg') unless open
  http-request deny deny_status 401 if !open !{ var(txn.alg) -m str RS256 }
  http-request deny deny_status 401 if !open !{ var(txn.token),jwt_verify(txn.alg,"%[2]s") -m int 1 }
  http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int') unless open
  http-request set-var(txn.now) date() unless open
  http-request deny deny_status 401 if !open { var(txn.exp),sub(txn.now) -m int lt 0 }
  http-request deny deny_status 401 if !open !{ var(txn.token),jwt_payload_query('$.iss') -m str %[3]s }
  http-request deny deny_status 401 if !open !{ var(txn.token),jwt_payload_query('$.aud[0]') -m str %[4]s }
  http-request set-var(txn.sub) var(txn.token),jwt_payload_query('$.sub') unless open
  stick-table type string len 40 size 100k expire 10m store http_req_rate(1s)
  http-request track-sc0 var(txn.sub) unless open
  http-request deny deny_status 429 if !open { sc_http_req_rate(0) gt 1000000 }
  http-request add-header X-Forwarded-For %%[src]
  default_backend up
backend up
  server up %[5]s
`, b.addr(port), b.keys.pem, issuer, audience, b.addr(b.upstream))
}

func (b *bench) nginx(port int) string {
	return fmt.Sprintf(`daemon off;
worker_processes 1;
pid %[3]s/nginx-%[4]d.pid;
events { worker_connections 4000; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[3]s/nginx-body;
  proxy_temp_path %[3]s/nginx-proxy;
  fastcgi_temp_path %[3]s/nginx-fastcgi;
  uwsgi_temp_path %[3]s/nginx-uwsgi;
  scgi_temp_path %[3]s/nginx-scgi;
  upstream up { server %[2]s; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen %[1]s;
    location / {
      proxy_pass http://up;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
`, b.addr(port), b.addr(b.upstream), b.dir, port)
}
