package kafka

import (
	"context"
	"crypto/tls"
	"net"
)

func dialTLS(ctx context.Context, d *net.Dialer, cfg Config, network, host string) (net.Conn, error) {
	tc := cfg.TLS.Clone()
	if tc.ServerName == "" {
		name, _, err := net.SplitHostPort(host)
		if err != nil {
			return nil, err
		}
		tc.ServerName = name
	}
	return (&tls.Dialer{NetDialer: d, Config: tc}).DialContext(ctx, network, host)
}
