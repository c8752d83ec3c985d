package notification

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"
)

// mailbox is a real SMTP server that keeps what it takes, and fails as told.
type mailbox struct {
	addr  string
	roots *x509.CertPool

	mu        sync.Mutex
	mails     []received
	sessions  int // that reached MAIL FROM
	onMail    func() error
	onRcpt    func() error
	onData    func() error
	closeAtOK bool // cut the connection after the message was taken
}

type received struct {
	from string
	to   []string
	user string
	msg  *mail.Message
	body string
}

// mailboxKind says how the server wants to be spoken to.
type mailboxKind struct{ implicitTLS, noTLS, auth bool }

func newMailbox(t *testing.T, kind mailboxKind) *mailbox {
	t.Helper()
	m := &mailbox{}
	cert, roots := certificate(t)
	m.roots = roots
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &mailSession{box: m, conn: c, auth: kind.auth}, nil
	}))
	srv.Domain = "localhost"
	srv.ReadTimeout, srv.WriteTimeout = 10*time.Second, 10*time.Second
	if !kind.noTLS {
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	srv.ErrorLog = discard{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m.addr = l.Addr().String()
	if kind.implicitTLS {
		l = tls.NewListener(l, srv.TLSConfig)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with an error when closed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return m
}

func (m *mailbox) fail(where *func() error, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*where = func() error { return err }
}

func (m *mailbox) ask(where *func() error) error {
	m.mu.Lock()
	f := *where
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	return f()
}

func (m *mailbox) taken() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]received(nil), m.mails...)
}

type mailSession struct {
	box  *mailbox
	conn *smtp.Conn
	auth bool
	now  received
}

func (s *mailSession) AuthMechanisms() []string {
	if s.auth {
		return []string{sasl.Plain}
	}
	return nil
}

func (s *mailSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "tiffin" || password != "s3cret" {
			return smtp.ErrAuthFailed
		}
		s.now.user = user
		return nil
	}), nil
}

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.box.mu.Lock()
	s.box.sessions++
	s.box.mu.Unlock()
	if s.auth && s.now.user == "" {
		return smtp.ErrAuthRequired
	}
	s.now.from = from
	return s.box.ask(&s.box.onMail)
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.now.to = append(s.now.to, to)
	return s.box.ask(&s.box.onRcpt)
}

func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := s.box.ask(&s.box.onData); err != nil {
		return err
	}
	msg, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	body, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
	if err != nil {
		return err
	}
	got := s.now
	got.msg, got.body = msg, string(body)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, got)
	return nil
}

func (s *mailSession) Reset() {
	if s.box.cutsAtReset() && len(s.box.taken()) > 0 {
		_ = s.conn.Conn().Close()
	}
	s.now = received{user: s.now.user}
}

func (m *mailbox) cutsAtReset() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closeAtOK
}

func (s *mailSession) Logout() error { return nil }

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func (m *mailbox) config() SMTPConfig {
	return SMTPConfig{Addr: m.addr, From: "Tiffin <no-reply@tiffin.example>", TLS: TLSStart, Timeout: 10 * time.Second, RootCAs: m.roots}
}

func channelTo(t *testing.T, cfg SMTPConfig) *SMTP {
	t.Helper()
	c, err := NewSMTP(cfg)
	require.NoError(t, err)
	return c
}
