// Command gateway is the one way into Tiffin: it verifies tokens, limits rates,
// refuses malformed requests and forwards the others to the services.
package main

import (
	"context"
	_ "embed"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tiffin-platform/tiffin/gateway/internal/edge"
	"github.com/tiffin-platform/tiffin/gateway/internal/limit"
	"github.com/tiffin-platform/tiffin/gateway/internal/upstream"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/service"
)

//go:embed openapi.json
var openAPI []byte

func main() { service.Main("gateway", adminAddr, run) }

func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	cfg, err := loadConfig(getenv)
	if err != nil {
		return err
	}
	o, err := obs.Start(ctx, cfg.Obs, stdout)
	if err != nil {
		return err
	}
	defer o.Close()

	verifier := authn.NewVerifier(cfg.Authn, authn.NewKeySet(), o.Log, o.Registry)
	o.Health.Decisive("keys", func(context.Context) error { return verifier.Ready() })

	metrics := upstream.NewMetrics(o.Registry)
	pools := map[edge.Service]*upstream.Pool{}
	for name, addresses := range cfg.Upstreams {
		pools[name] = upstream.NewPool(string(name), addresses, metrics, o.Registry, time.Now)
		defer pools[name].Close()
	}
	ip := limit.New("ip", cfg.RateIP, limit.DefaultCapacity, time.Now)
	login := limit.New("login", cfg.RateLogin, limit.DefaultCapacity, time.Now)
	user := limit.New("user", cfg.RateUser, limit.DefaultCapacity, time.Now)

	gateway, err := edge.New(edge.Config{
		Verifier: verifier, Upstreams: pools, IP: ip, Login: login, User: user,
		TrustedProxies: cfg.TrustedProxies, CORSOrigins: cfg.CORSOrigins,
		OpenAPI: openAPI, Routes: edge.Routes(cfg.UpstreamTimeout),
	}, o.Log, o.Registry)
	if err != nil {
		return err
	}
	l, err := httpx.Listen(ctx, cfg.HTTPAddr)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return verifier.Run(ctx) })
	for _, p := range pools {
		group.Go(func() error { return p.Run(ctx) })
	}
	group.Go(func() error { return ip.Run(ctx) })
	group.Go(func() error { return login.Run(ctx) })
	group.Go(func() error { return user.Run(ctx) })
	group.Go(func() error { return gateway.Serve(ctx, l) })
	return group.Wait()
}
