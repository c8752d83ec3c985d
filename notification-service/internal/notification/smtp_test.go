package notification

import (
	"context"
	"crypto/x509"
	"errors"
	"mime"
	"net"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

var message = Message{
	ID: uuid.MustParse("01900000-0000-7000-8000-000000000006"), UserID: customer, Kind: OrderConfirmed,
	To: "asha@example.com", Name: "Asha Rao", Title: "Order confirmed", Body: "Your order DEADBEEF is confirmed – soon.\r\n.\r\nbye",
	CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
}

func TestMailArrivesWhole(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*SMTPConfig){
		TLSStart:    func(c *SMTPConfig) { c.TLS = TLSStart; c.Username, c.Password = "tiffin", "s3cret" },
		TLSImplicit: func(c *SMTPConfig) { c.TLS = TLSImplicit; c.Username, c.Password = "tiffin", "s3cret" },
		TLSNone:     func(c *SMTPConfig) { c.TLS = TLSNone },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := newMailbox(t, mailboxKind{implicitTLS: name == TLSImplicit, auth: name != TLSNone})
			cfg := box.config()
			set(&cfg)
			require.NoError(t, channelTo(t, cfg).Send(t.Context(), message))

			require.Len(t, box.taken(), 1)
			got := box.taken()[0]
			require.Equal(t, cfg.Username, got.user)
			require.Equal(t, "no-reply@tiffin.example", got.from)
			require.Equal(t, []string{"asha@example.com"}, got.to)
			h := got.msg.Header
			require.Equal(t, "<01900000-0000-7000-8000-000000000006@tiffin.example>", h.Get("Message-ID"))
			require.Equal(t, `"Tiffin" <no-reply@tiffin.example>`, h.Get("From"))
			require.Equal(t, "<asha@example.com>", h.Get("To"))
			require.Equal(t, "Order confirmed", h.Get("Subject"))
			require.Equal(t, "auto-generated", h.Get("Auto-Submitted"))
			date, err := h.Date()
			require.NoError(t, err)
			require.True(t, message.CreatedAt.Equal(date))
			require.Equal(t, "Hello Asha Rao,\r\n\r\n"+message.Body+"\r\n\r\nTiffin\r\n", got.body)
		})
	}
}

func TestNothingAUserWroteBecomesAHeader(t *testing.T) {
	t.Parallel()
	box := newMailbox(t, mailboxKind{})
	c := channelTo(t, box.config())
	hostile := "x\r\nBcc: eve@example.com\r\n\r\nhi"

	m := message
	m.Name, m.Title, m.Body = hostile, hostile, hostile
	require.NoError(t, c.Send(t.Context(), m))
	require.Len(t, box.taken(), 1)
	got := box.taken()[0]
	require.Equal(t, []string{"asha@example.com"}, got.to)
	require.Empty(t, got.msg.Header.Get("Bcc"))
	subject, err := new(mime.WordDecoder).DecodeHeader(got.msg.Header.Get("Subject"))
	require.NoError(t, err)
	require.Equal(t, "x Bcc: eve@example.com hi", subject)

	for _, to := range []string{"asha@example.com\r\nBcc: eve@example.com", "a@b.c, eve@example.com", "Asha <asha@example.com>", "a@b.c>\r\nRCPT TO:<eve@example.com", ""} {
		m := message
		m.To = to
		require.ErrorIs(t, c.Send(t.Context(), m), ErrRefused, "%q", to)
	}
	require.Len(t, box.taken(), 1)
}

func TestAnAnswerDecidesWhetherToTryAgain(t *testing.T) {
	t.Parallel()
	answer := func(code int) error {
		return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 1, 1}, Message: "no mail for asha@example.com"}
	}
	for name, tt := range map[string]struct {
		where   func(*mailbox) *func() error
		code    int
		refused bool
	}{
		"unknown recipient":         {func(m *mailbox) *func() error { return &m.onRcpt }, 550, true},
		"mailbox busy":              {func(m *mailbox) *func() error { return &m.onRcpt }, 450, false},
		"content refused":           {func(m *mailbox) *func() error { return &m.onData }, 554, true},
		"greylisted after the data": {func(m *mailbox) *func() error { return &m.onData }, 451, false},
		"sender not allowed":        {func(m *mailbox) *func() error { return &m.onMail }, 550, false},
		"server closing":            {func(m *mailbox) *func() error { return &m.onMail }, 421, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box := newMailbox(t, mailboxKind{})
			box.fail(tt.where(box), answer(tt.code))
			err := channelTo(t, box.config()).Send(t.Context(), message)
			require.Error(t, err)
			require.Equal(t, tt.refused, errors.Is(err, ErrRefused), err.Error())
			require.ErrorContains(t, err, "no mail for (recipient)")
			require.NotContains(t, err.Error(), message.To, "addresses stay out of logs and headers")
			require.Empty(t, box.taken())
		})
	}
}

func TestAMailIsSentOnceTheServerTookIt(t *testing.T) {
	t.Parallel()
	box := newMailbox(t, mailboxKind{})
	box.closeAtOK = true
	require.NoError(t, channelTo(t, box.config()).Send(t.Context(), message))
	require.Len(t, box.taken(), 1)
}

func TestASlowServerCostsTheTimeoutNotMore(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	stuck := func() error { <-release; return nil }
	t.Run("that accepts and never greets", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		cfg := (&mailbox{addr: l.Addr().String()}).config()
		cfg.Timeout = 200 * time.Millisecond
		requireQuickFailure(t, func() error { return channelTo(t, cfg).Send(t.Context(), message) })
	})
	t.Run("that hangs in the middle", func(t *testing.T) {
		t.Parallel()
		box := newMailbox(t, mailboxKind{})
		box.onData = stuck
		cfg := box.config()
		cfg.Timeout = 500 * time.Millisecond
		requireQuickFailure(t, func() error { return channelTo(t, cfg).Send(t.Context(), message) })
		close(release)
	})
	t.Run("while the service stops", func(t *testing.T) {
		t.Parallel()
		box := newMailbox(t, mailboxKind{})
		reached := make(chan struct{})
		stop := make(chan struct{})
		box.onRcpt = func() error { close(reached); <-stop; return nil }
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-reached; cancel() }()
		requireQuickFailure(t, func() error { return channelTo(t, box.config()).Send(ctx, message) })
		close(stop)
	})
}

func requireQuickFailure(t *testing.T, send func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- send() }()
	select {
	case err := <-done:
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrRefused)
	case <-time.After(5 * time.Second):
		require.Fail(t, "Send is still waiting")
	}
}

func TestAWrongPasswordOrCertificateIsWorthAnotherAttempt(t *testing.T) {
	t.Parallel()
	box := newMailbox(t, mailboxKind{auth: true})
	cfg := box.config()
	cfg.Username, cfg.Password = "tiffin", "wrong"
	err := channelTo(t, cfg).Send(t.Context(), message)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrRefused)
	require.NotContains(t, err.Error(), "wrong")

	cfg = box.config()
	cfg.RootCAs = x509.NewCertPool()
	err = channelTo(t, cfg).Send(t.Context(), message)
	require.ErrorContains(t, err, "certificate")
	require.NotErrorIs(t, err, ErrRefused)
	require.Zero(t, box.sessions, "nothing was said to a server that is not the one")
}

func TestStartTLSIsNeverSkipped(t *testing.T) {
	t.Parallel()
	box := newMailbox(t, mailboxKind{noTLS: true})
	require.ErrorContains(t, channelTo(t, box.config()).Send(t.Context(), message), "STARTTLS")
	require.Zero(t, box.sessions)
}

func TestSMTPConfigIsChecked(t *testing.T) {
	t.Parallel()
	good := SMTPConfig{Addr: "localhost:25", From: "a@b.c", TLS: TLSNone, Timeout: time.Second}
	_, err := NewSMTP(good)
	require.NoError(t, err)
	for name, change := range map[string]func(*SMTPConfig){
		"no port":           func(c *SMTPConfig) { c.Addr = "localhost" },
		"bad port":          func(c *SMTPConfig) { c.Addr = "localhost:0" },
		"no host":           func(c *SMTPConfig) { c.Addr = ":25" },
		"no sender":         func(c *SMTPConfig) { c.From = "" },
		"unknown TLS":       func(c *SMTPConfig) { c.TLS = "sometimes" },
		"password in clear": func(c *SMTPConfig) { c.Username = "u" },
		"no timeout":        func(c *SMTPConfig) { c.Timeout = 0 },
	} {
		bad := good
		change(&bad)
		_, err := NewSMTP(bad)
		require.Error(t, err, name)
	}
}
