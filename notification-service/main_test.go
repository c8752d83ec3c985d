package main

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/authn/authntest"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/kafkatest"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
	"github.com/tiffin-platform/tiffin/pkg/service/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheServiceStartsServesAndStops(t *testing.T) {
	t.Parallel()
	issuer := authntest.New(t)
	r := servicetest.Boot(t, run, map[string]string{
		"DATABASE_URL":  pgtest.Empty(t), // it migrates by itself
		"KAFKA_BROKERS": kafkatest.New(t).Brokers[0],
		"JWKS_URL":      issuer.Server(),
		"JWT_ISSUER":    authntest.TestIssuer,
		"JWT_AUDIENCE":  authntest.TestAudience,
	})
	token := issuer.Token(uuid.Must(uuid.NewV7()), authn.Customer)
	var status int
	var body []byte
	require.Eventually(t, func() bool { // the keys come in the background
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.HTTP+"/notifications", nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		status = resp.StatusCode
		body, err = io.ReadAll(resp.Body)
		require.NoError(t, err)
		return status == http.StatusOK
	}, 10*time.Second, 20*time.Millisecond)
	require.JSONEq(t, `{"items": []}`, string(body))
	r.Stop()
}

func TestTheServiceWaitsForItsDatabaseAndBroker(t *testing.T) {
	t.Parallel()
	r := servicetest.Launch(t, run, map[string]string{
		"DATABASE_URL":  "postgres://tiffin:tiffin@127.0.0.1:1/notification_db?sslmode=disable",
		"KAFKA_BROKERS": "127.0.0.1:1",
	})
	require.Equal(t, http.StatusOK, get(t, r.Admin+"/livez"))
	require.Equal(t, http.StatusServiceUnavailable, get(t, r.Admin+"/readyz"))
	r.Stop() // and stops cleanly while it waits
}

func TestAWrongSettingEndsTheStart(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), settings(map[string]string{"NOTIFICATION_CHANNEL": "pigeon"}), io.Discard)
	require.ErrorContains(t, err, "NOTIFICATION_CHANNEL")
}

// inbox is a mail server's side: it keeps the bytes of each mail.
type inbox chan string

func (i inbox) NewSession(*smtp.Conn) (smtp.Session, error) { return i, nil }
func (i inbox) Mail(string, *smtp.MailOptions) error        { return nil }
func (i inbox) Rcpt(to string, _ *smtp.RcptOptions) error   { return nil }
func (i inbox) Reset()                                      {}
func (i inbox) Logout() error                               { return nil }
func (i inbox) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	i <- string(b)
	return err
}

func TestAUserWhoRegistersGetsMail(t *testing.T) {
	t.Parallel()
	mails := make(inbox, 10)
	srv := smtp.NewServer(mails)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l) // ends with an error when closed
	}()
	t.Cleanup(func() { _ = srv.Close(); <-served })

	broker := kafkatest.New(t)
	issuer := authntest.New(t)
	servicetest.Boot(t, run, map[string]string{
		"DATABASE_URL": pgtest.URL(t, notification.Migrations), "KAFKA_BROKERS": broker.Brokers[0], "JWKS_URL": issuer.Server(),
		"NOTIFICATION_CHANNEL": "smtp", "SMTP_ADDR": l.Addr().String(), "SMTP_FROM": "no-reply@tiffin.example", "SMTP_TLS": "none",
	})
	client, err := kafka.NewClient(broker, "test", slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, kafka.EnsureTopics(t.Context(), client, broker, event.TypeUserRegistered))
	e := event.New("auth-service", event.UserRegistered{UserID: uuid.Must(uuid.NewV7()), Email: "asha@example.com", Name: "Asha"})
	rec := &kgo.Record{Topic: e.Type, Key: []byte(e.Subject), Value: e.Data}
	for _, h := range e.Headers() {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
	}
	require.NoError(t, client.ProduceSync(t.Context(), rec).FirstErr())
	select {
	case m := <-mails:
		require.Contains(t, m, "To: <asha@example.com>")
		require.Contains(t, m, "Subject: Welcome to Tiffin")
		require.Contains(t, m, "Hello Asha,")
	case <-time.After(20 * time.Second):
		require.Fail(t, "no mail came")
	}
}

func get(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	return resp.StatusCode
}
