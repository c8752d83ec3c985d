package main

import (
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/gateway/internal/edge"
	"github.com/tiffin-platform/tiffin/gateway/internal/limit"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/obs"
)

const adminAddr = "127.0.0.1:5100"

// Config is the gateway's settings; README.md explains each.
type Config struct {
	Obs             obs.Config
	Authn           authn.Config
	HTTPAddr        string
	Upstreams       map[edge.Service][]*url.URL
	UpstreamTimeout time.Duration
	RateIP          limit.Rate // this replica's share, as the other two
	RateUser        limit.Rate
	RateLogin       limit.Rate
	TrustedProxies  []netip.Prefix
	CORSOrigins     []string
}

func loadConfig(getenv func(string) string) (Config, error) {
	r := env.New(getenv)
	c := Config{
		Obs:      obs.ConfigFrom(r, "gateway", adminAddr),
		Authn:    authn.ConfigFrom(r),
		HTTPAddr: r.Addr("HTTP_ADDR", ":5000"),
		Upstreams: map[edge.Service][]*url.URL{
			edge.Auth:         r.URLs("AUTH_URL", "http://localhost:5001"),
			edge.Order:        r.URLs("ORDER_URL", "http://localhost:5002"),
			edge.Payment:      r.URLs("PAYMENT_URL", "http://localhost:5003"),
			edge.Notification: r.URLs("NOTIFICATION_URL", "http://localhost:5004"),
		},
		// Below the 30 s after which the server gives up on a request.
		UpstreamTimeout: r.Duration("UPSTREAM_TIMEOUT", 15*time.Second, time.Second, 25*time.Second),
		TrustedProxies:  proxies(r),
		CORSOrigins:     origins(r),
	}
	replicas := r.Int("GATEWAY_REPLICAS", 1, 1, 1000)
	c.RateIP = rate(r, "RATE_LIMIT_IP", "100/s").Divide(replicas)
	c.RateUser = rate(r, "RATE_LIMIT_USER", "50/s").Divide(replicas)
	c.RateLogin = rate(r, "RATE_LIMIT_LOGIN", "20/m").Divide(replicas)
	return c, r.Err()
}

func rate(r *env.Reader, name, def string) limit.Rate {
	v := r.String(name, def)
	rate, err := limit.ParseRate(v)
	if err != nil {
		r.Fail(name, "%q %v", v, err)
	}
	return rate
}

func proxies(r *env.Reader) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range r.List("TRUSTED_PROXIES") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, addrErr := netip.ParseAddr(s)
			if addrErr != nil || a.Zone() != "" {
				r.Fail("TRUSTED_PROXIES", "%q must be an address or a network such as 10.0.0.0/8", s)
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		list = append(list, p.Masked())
	}
	return list
}

func origins(r *env.Reader) []string {
	list := r.List("CORS_ALLOWED_ORIGINS")
	for _, s := range list {
		if s == "*" {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Scheme+"://"+u.Host != s || s != strings.ToLower(s) {
			r.Fail("CORS_ALLOWED_ORIGINS", "%q must be an origin such as https://app.example.com, or *", s)
		}
	}
	return list
}
