package notification

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// How the connection to the mail server is protected.
const (
	TLSStart    = "starttls" // plain first, then STARTTLS, which must succeed
	TLSImplicit = "tls"      // TLS from the first byte, usually port 465
	TLSNone     = "none"     // for a relay on the same host or network
)

// SMTPConfig says how to reach a mail server.
type SMTPConfig struct {
	Addr     string // host:port
	Username string // "" for no authentication; needs TLS
	Password string
	From     string // an address, with or without a display name
	TLS      string // TLSStart, TLSImplicit or TLSNone
	// Timeout bounds one message from dialling to the server's last answer.
	Timeout time.Duration
	RootCAs *x509.CertPool // nil for the system's
}

// SMTP is the channel that sends mail, one connection per message.
//
// Delivery is at least once: when the server's answer to a message is lost, the
// message is sent again, because SMTP has no way to ask. Its Message-ID stays
// the same, so that receivers can drop the second copy.
type SMTP struct {
	cfg    SMTPConfig
	host   string
	port   int
	from   *mail.Address
	domain string // of from, for Message-ID
}

// ValidSender tells whether NewSMTP takes an address, with or without a display
// name, as the sender of its mails.
func ValidSender(s string) bool {
	from, err := mail.ParseAddress(s)
	return err == nil && validAddress(from.Address)
}

// NewSMTP returns the SMTP channel; it does not connect.
func NewSMTP(cfg SMTPConfig) (*SMTP, error) {
	host, portText, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("smtp address: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 1 || port > 65535 || host == "" {
		return nil, fmt.Errorf("smtp address %q is not host:port", cfg.Addr)
	}
	from, err := mail.ParseAddress(cfg.From)
	if err != nil || !ValidSender(cfg.From) {
		return nil, fmt.Errorf("smtp from %q is no mail address", cfg.From)
	}
	switch cfg.TLS {
	case TLSStart, TLSImplicit:
	case TLSNone:
		if cfg.Username != "" {
			return nil, errors.New("smtp authentication needs TLS: a password must not travel in clear")
		}
	default:
		return nil, fmt.Errorf("smtp tls mode %q is unknown", cfg.TLS)
	}
	if cfg.Timeout <= 0 {
		return nil, errors.New("smtp timeout must be positive")
	}
	return &SMTP{cfg: cfg, host: host, port: port, from: from, domain: from.Address[strings.LastIndexByte(from.Address, '@')+1:]}, nil
}

// Name returns "smtp".
func (*SMTP) Name() string { return "smtp" }

// Send hands m to the mail server. It returns nil once the server took the
// message, whatever happens to the connection afterwards.
func (c *SMTP) Send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	msg, err := c.compose(m)
	if err != nil {
		return err
	}
	// The library bounds each step and looks at the context only while it
	// dials, and it leaves the connection open when the greeting, TLS or AUTH
	// fails. Closing it from here settles both.
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close() // everything that matters was answered before
		}
	}()
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		conn = raw
		if c.cfg.TLS != TLSImplicit {
			return raw, nil
		}
		secured := tls.Client(raw, c.tlsConfig())
		return secured, secured.HandshakeContext(ctx)
	}
	client, err := gomail.NewClient(c.host, c.options(dial)...)
	if err != nil {
		return fmt.Errorf("smtp client: %w", err)
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return c.explain(ctx, m, fmt.Errorf("connect to %s: %w", c.cfg.Addr, err))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = client.SendWithSMTPClient(session, msg)
	if msg.IsDelivered() {
		_ = session.Quit() // a courtesy
		return nil
	}
	if err == nil {
		err = errors.New("the server did not confirm the message")
	}
	return c.explain(ctx, m, err)
}

func (c *SMTP) tlsConfig() *tls.Config {
	return &tls.Config{ServerName: c.host, MinVersion: tls.VersionTLS12, RootCAs: c.cfg.RootCAs}
}

func (c *SMTP) options(dial gomail.DialContextFunc) []gomail.Option {
	policy := gomail.NoTLS
	if c.cfg.TLS == TLSStart {
		policy = gomail.TLSMandatory
	}
	opts := []gomail.Option{
		gomail.WithPort(c.port),
		gomail.WithTimeout(c.cfg.Timeout),
		gomail.WithTLSPolicy(policy),
		gomail.WithTLSConfig(c.tlsConfig()),
		gomail.WithDialContextFunc(dial),
		gomail.WithoutNoop(),
	}
	if c.cfg.Username != "" {
		opts = append(opts,
			gomail.WithUsername(c.cfg.Username), gomail.WithPassword(c.cfg.Password),
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	return opts
}

// compose builds the mail. Nothing that a user wrote stands in its head except
// the address, which must be a bare one: a name or a text with a line break
// cannot add a header or a recipient.
func (c *SMTP) compose(m Message) (*gomail.Msg, error) {
	if !validAddress(m.To) {
		return nil, fmt.Errorf("%w: the contact's address is no mail address", ErrRefused)
	}
	msg := gomail.NewMsg()
	msg.FromMailAddress(c.from)
	msg.ToMailAddress(&mail.Address{Address: m.To})
	msg.Subject(clip(m.Title))
	msg.SetMessageIDWithValue(m.ID.String() + "@" + c.domain)
	msg.SetDateWithValue(m.CreatedAt)
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // keeps out-of-office answers away (RFC 3834)
	greeting := "Hello,"
	if name := clip(m.Name); name != "" {
		greeting = "Hello " + name + ","
	}
	msg.SetBodyString(gomail.TypeTextPlain, greeting+"\r\n\r\n"+m.Body+"\r\n\r\nTiffin\r\n")
	return msg, nil
}

// explain names the cause without the recipient's address, because errors end
// in logs and in the headers of dead letters. The server's 5yz about this
// message or its recipient is final (RFC 5321 §4.2.1); the same answer to
// authentication or to the sender is a setting that an operator can mend, so it
// is worth another attempt.
func (c *SMTP) explain(ctx context.Context, m Message, err error) error {
	text := strings.ReplaceAll(err.Error(), m.To, "(recipient)")
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("smtp: %s: %w", text, cause)
	}
	send, ok := errors.AsType[*gomail.SendError](err)
	if ok && send.ErrorCode() >= 500 && send.ErrorCode() <= 599 {
		switch send.Reason {
		case gomail.ErrSMTPRcptTo, gomail.ErrSMTPData, gomail.ErrSMTPDataClose:
			return fmt.Errorf("%w: smtp: %s", ErrRefused, text)
		}
	}
	return errors.New("smtp: " + text)
}
