//go:build unix

package gateway

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/authn"
)

// What tokens say and contenders demand: the platform's defaults.
const (
	issuer   = "https://tiffin.local"
	audience = "tiffin-api"
)

// keys are the tokens of so many users, and the key that verifies them: as a
// JWKS for those who fetch it, as a PEM file for those who read it.
type keys struct {
	tokens  []string
	forged  []string // they name keys that nobody has
	jwks    string   // URL
	fetches *atomic.Int64
	pem     string // file
	server  *http.Server
}

func newKeys(ctx context.Context, n int, dir string) (keys, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return keys{}, err
	}
	k := keys{fetches: new(atomic.Int64)}
	now := time.Now()
	for range n {
		token, err := authn.Mint(key, "bench", authn.Claims{
			Issuer: issuer, Audience: []string{audience}, Subject: uuid.New(), Role: authn.Customer,
			SessionID: uuid.Must(uuid.NewV7()), ID: uuid.NewString(), IssuedAt: now.Unix(), Expires: now.Add(6 * time.Hour).Unix(),
		})
		if err != nil {
			return keys{}, err
		}
		k.tokens = append(k.tokens, token)
	}
	_, signed, _ := strings.Cut(k.tokens[0], ".")
	for range forgedTokens {
		head := fmt.Sprintf(`{"alg":"RS256","kid":%q,"typ":"at+jwt"}`, uuid.NewString())
		k.forged = append(k.forged, base64.RawURLEncoding.EncodeToString([]byte(head))+"."+signed)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return keys{}, err
	}
	k.pem = filepath.Join(dir, "public.pem")
	if err := os.WriteFile(k.pem, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
		return keys{}, err
	}
	set, err := json.Marshal(authn.JWKS{Keys: []authn.JWK{authn.NewJWK("bench", &key.PublicKey)}})
	if err != nil {
		return keys{}, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return keys{}, err
	}
	k.jwks = fmt.Sprintf("http://%s/jwks.json", l.Addr())
	k.server = &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		k.fetches.Add(1)
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(set)
	})}
	go func() { _ = k.server.Serve(l) }() // until close
	return k, nil
}

func (k keys) close() { _ = k.server.Close() }
