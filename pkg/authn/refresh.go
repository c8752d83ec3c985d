package authn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	fetchTimeout = 3 * time.Second
	// maxBackoff bounds the wait between tries while no fetch succeeds.
	maxBackoff = 5 * time.Second
)

func newClient() *http.Client {
	return &http.Client{
		Timeout: fetchTimeout,
		// Its own transport: Run closes its connections when it ends. One fetch a
		// minute gains nothing from a connection that is kept open.
		Transport: &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: fetchTimeout},
		// Keys come from the address that was configured, or not at all.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Run keeps the keys fresh until ctx ends: at once, then every RefreshInterval,
// sooner after a failure. The last good set stays in use through an outage.
// Without a JWKSURL it only forgets ended tokens.
func (v *Verifier) Run(ctx context.Context) error {
	backoff := 100 * time.Millisecond
	for {
		wait := v.cfg.RefreshInterval
		if err := v.fetch(ctx); err != nil && ctx.Err() == nil {
			v.log.WarnContext(ctx, "signing keys not refreshed, trying again",
				"url", v.cfg.JWKSURL, "error", err.Error(), "keys_in_use", v.keys.Len(), "wait", backoff.String())
			wait = min(backoff, wait)
			backoff = min(backoff*2, maxBackoff)
		} else {
			backoff = 100 * time.Millisecond
		}
		v.cache.sweep(v.alive)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// fetchForUnknown fetches the keys because a token named a kid that is not
// among them. Whatever the kids, one fetch runs at a time and one per cooldown
// begins; those who come while it runs wait for it.
func (v *Verifier) fetchForUnknown(ctx context.Context) {
	if v.cfg.JWKSURL == "" {
		return
	}
	v.mu.Lock()
	if flight := v.flight; flight != nil {
		v.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
		}
		return
	}
	now := time.Now() // not cfg.Now: this is about real load on a real server
	if now.Sub(v.lastMiss) < v.cfg.Cooldown {
		v.mu.Unlock()
		return
	}
	flight := make(chan struct{})
	v.flight, v.lastMiss = flight, now
	v.mu.Unlock()

	// The others wait for this fetch too, so it does not end with its client.
	if err := v.fetch(context.WithoutCancel(ctx)); err != nil {
		v.log.WarnContext(ctx, "signing keys not refreshed for an unknown kid", "url", v.cfg.JWKSURL, "error", err.Error())
	}
	v.mu.Lock()
	v.flight = nil
	v.mu.Unlock()
	close(flight)
}

// fetch gets the keys. One at a time: of two, the answer that was given first
// could come last and bring back a key that is gone.
func (v *Verifier) fetch(ctx context.Context) error {
	if v.cfg.JWKSURL == "" {
		return nil
	}
	v.fetching.Lock()
	defer v.fetching.Unlock()

	err := v.fetchKeys(ctx)
	result := "ok"
	if err != nil {
		result = "error"
	}
	v.fetches.WithLabelValues(result).Inc()
	return err
}

func (v *Verifier) fetchKeys(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.cfg.JWKSURL, nil)
	if err != nil {
		return fmt.Errorf("fetch jwks: %w", err)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return fmt.Errorf("fetch jwks: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch jwks: status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKS+1))
	if err != nil {
		return fmt.Errorf("fetch jwks: %w", err)
	}
	keys, err := ParseJWKS(body)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		// An issuer that signs has a key; this is a broken answer, not the news
		// that all tokens are void.
		return errors.New("fetch jwks: no usable key in it")
	}
	v.keys.Set(keys)
	return nil
}
