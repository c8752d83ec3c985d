package main

import (
	"net/netip"
	"time"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/env"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/obs"
	"github.com/tiffin-platform/tiffin/pkg/postgres"
)

const (
	name        = "auth-service"
	adminAddr   = "127.0.0.1:5101"
	databaseURL = "postgres://tiffin:tiffin@localhost:5436/auth_db?sslmode=disable" //nolint:gosec // the development database, as documented
)

// Config is what the service reads from its environment; see README.md.
type Config struct {
	HTTPAddr       string
	Obs            obs.Config
	Postgres       postgres.Config
	Kafka          kafka.Config
	Auth           auth.Config
	Keys           auth.KeysConfig
	AdminEmail     string
	AdminPassword  string
	TrustedProxies []netip.Prefix
}

func loadConfig(getenv func(string) string) (Config, error) {
	r := env.New(getenv)
	cfg := Config{
		HTTPAddr: r.Addr("HTTP_ADDR", ":5001"),
		Obs:      obs.ConfigFrom(r, name, adminAddr),
		Postgres: postgres.ConfigFrom(r, databaseURL),
		Kafka:    kafka.ConfigFrom(r),
		Auth: auth.Config{
			Issuer:          authn.Issuer(r),
			Audience:        authn.Audience(r),
			AccessTTL:       r.Duration("AUTH_ACCESS_TTL", 15*time.Minute, 10*time.Second, 24*time.Hour),
			RefreshTTL:      r.Duration("AUTH_REFRESH_TTL", 30*24*time.Hour, time.Minute, 365*24*time.Hour),
			RefreshGrace:    r.Duration("AUTH_REFRESH_GRACE", 2*time.Second, 0, time.Minute),
			AuditRetention:  r.Duration("AUTH_AUDIT_RETENTION", 365*24*time.Hour, time.Hour, 20*365*24*time.Hour),
			HashConcurrency: r.Int("AUTH_HASH_CONCURRENCY", 0, 0, 256),
		},
		AdminEmail:    r.String("AUTH_ADMIN_EMAIL", ""),
		AdminPassword: r.Secret("AUTH_ADMIN_PASSWORD"),
	}
	cfg.Keys = keysConfig(r, cfg.Auth.AccessTTL)
	if (cfg.AdminEmail == "") != (cfg.AdminPassword == "") {
		r.Fail("AUTH_ADMIN_EMAIL", "set AUTH_ADMIN_EMAIL and AUTH_ADMIN_PASSWORD, or neither")
	} else if cfg.AdminEmail != "" {
		if err := auth.CheckAdmin(cfg.AdminEmail, cfg.AdminPassword); err != nil {
			r.Fail("AUTH_ADMIN_EMAIL", "no account can be made with it and AUTH_ADMIN_PASSWORD: %v", err)
		}
	}
	cfg.TrustedProxies = proxies(r)
	return cfg, r.Err()
}

func keysConfig(r *env.Reader, accessTTL time.Duration) auth.KeysConfig {
	k := auth.KeysConfig{
		Lifetime:  r.Duration("AUTH_KEY_LIFETIME", 30*24*time.Hour, time.Hour, 10*365*24*time.Hour),
		AccessTTL: accessTTL,
		Secret:    r.Secret("AUTH_KEYS_SECRET"),
	}
	if k.Secret != "" && len(k.Secret) < 32 {
		r.Fail("AUTH_KEYS_SECRET", "must be at least 32 bytes, such as the output of: openssl rand -base64 32")
	}
	return k
}

// proxies reads AUTH_TRUSTED_PROXIES. By default the gateway is believed when it
// is on this machine or in a private network, where compose and clusters put
// it; nobody on the internet is.
func proxies(r *env.Reader) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range r.List("AUTH_TRUSTED_PROXIES", "loopback", "private") {
		switch s {
		case "none":
		case "loopback":
			list = append(list, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
		case "private":
			list = append(list, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
				netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"))
		default:
			p, err := netip.ParsePrefix(s)
			if addr, single := netip.ParseAddr(s); single == nil {
				p, err = addr.Prefix(addr.BitLen())
			}
			if err != nil {
				r.Fail("AUTH_TRUSTED_PROXIES", "%q must be loopback, private, none, an address or a network such as 10.1.0.0/16", s)
				continue
			}
			list = append(list, p.Masked())
		}
	}
	return list
}
