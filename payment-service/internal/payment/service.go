package payment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tiffin-platform/tiffin/pkg/coalesce"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Source names this service in the events it emits.
const Source = "payment-service"

// Config is what a Service can be told.
type Config struct {
	// ProviderName is stored with each payment: a reference means something only
	// to the provider that gave it.
	ProviderName string
	// ProviderTimeout bounds one call of the provider.
	ProviderTimeout time.Duration
	// RefundRetry is how long a void or refund may take before it is asked for
	// again. It doubles with each time, up to an hour or RefundRetry itself.
	RefundRetry time.Duration
}

func (c Config) validate() error {
	if c.ProviderName == "" || c.ProviderTimeout <= 0 || c.RefundRetry <= 0 {
		return errors.New("payment: a provider's name and positive durations are needed")
	}
	return nil
}

// Service runs the use cases. It is safe for concurrent use, and several
// replicas may work on one database.
type Service struct {
	db       *outbox.DB
	provider Provider
	cfg      Config
	log      *slog.Logger
	begins   *coalesce.Calls[Payment, Payment]
	refs     *coalesce.Calls[reference, string]
	open     prometheus.Gauge
	now      func() time.Time
}

// NewService returns a Service that charges through provider. reg may be nil.
func NewService(db *outbox.DB, provider Provider, cfg Config, log *slog.Logger, reg prometheus.Registerer, now func() time.Time) (*Service, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Service{db: db, provider: provider, cfg: cfg, log: log, now: now, open: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tiffin_payment_refunds_open",
		Help: "Payments whose void or refund was asked for and has not ended.",
	})}
	s.begins = coalesce.New(100, callTime, func(ctx context.Context, ps []Payment) ([]Payment, error) { return begin(ctx, db.Pool, ps) })
	s.refs = coalesce.New(100, callTime, func(ctx context.Context, refs []reference) ([]string, error) { return storeRefs(ctx, db.Pool, refs) })
	if reg != nil {
		if err := reg.Register(s.open); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	return s, nil
}

// callTime bounds a write for several charges that run at the same time.
const callTime = 10 * time.Second

// Actor is who asks.
type Actor struct {
	ID    uuid.UUID
	Admin bool
}

func (a Actor) maySee(p Payment) bool { return a.Admin || a.ID == p.CustomerID }

// Get returns a payment that the actor may see.
func (s *Service) Get(ctx context.Context, who Actor, id uuid.UUID) (Payment, error) {
	p, err := find(ctx, s.db.Pool, id)
	if err != nil {
		return Payment{}, err
	}
	if !who.maySee(p) {
		return Payment{}, errNone
	}
	return p, nil
}

// OfOrder returns an order's payment in a list, which is empty when there is
// none that the actor may see.
func (s *Service) OfOrder(ctx context.Context, who Actor, order uuid.UUID) ([]Payment, error) {
	p, err := findOfOrder(ctx, s.db.Pool, order)
	if errors.Is(err, errNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !who.maySee(p) {
		return nil, nil
	}
	return []Payment{p}, nil
}

// ErrUnusable says that an event cannot be what the order service writes: no
// retry mends that.
var ErrUnusable = errors.New("unusable event")

var currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)

func check(o event.OrderCreated) error {
	switch {
	case o.OrderID == uuid.Nil || o.CustomerID == uuid.Nil:
		return fmt.Errorf("%w: order %s of customer %s: an id is missing", ErrUnusable, o.OrderID, o.CustomerID)
	case o.Total <= 0 || !currencyCode.MatchString(o.Currency):
		return fmt.Errorf("%w: order %s costs %d %.8q", ErrUnusable, o.OrderID, o.Total, o.Currency)
	case strings.ContainsRune(o.PaymentMethod, 0):
		return fmt.Errorf("%w: order %s: the payment method holds a NUL", ErrUnusable, o.OrderID)
	}
	return nil
}

// Charge is the outside half of order.created. It may be killed after any
// statement and run again, also by two processes at once:
//
//   - before the row is committed: nothing happened;
//   - after Create, before the reference is stored: an intent that nobody will
//     confirm;
//   - after the reference is stored: the next run confirms that intent;
//   - after Confirm: the next run is told what came of it.
//
// It does nothing for a payment that has ended or whose order was cancelled.
func (s *Service) Charge(ctx context.Context, o event.OrderCreated) (Outcome, error) {
	if err := check(o); err != nil {
		return Outcome{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Outcome{}, fmt.Errorf("make payment id: %w", err)
	}
	now := s.instant()
	p, err := s.begins.Do(ctx, Payment{
		ID: id, OrderID: o.OrderID, CustomerID: o.CustomerID, Amount: o.Total, Currency: o.Currency,
		Method: o.PaymentMethod, Provider: s.cfg.ProviderName, Status: Pending, CreatedAt: now, UpdatedAt: now,
	})
	if err != nil || !p.Chargeable() {
		return Outcome{}, err
	}
	if err := s.sameProvider(p); err != nil {
		return Outcome{}, err
	}
	ref := p.ProviderRef
	if ref == "" {
		if ref, err = s.create(ctx, p); err != nil {
			return Outcome{}, err
		}
		if ref, err = s.refs.Do(ctx, reference{p.ID, ref, s.instant()}); err != nil || ref == "" {
			return Outcome{}, err
		}
	}
	return s.ask(ctx, "confirm", s.provider.Confirm, ref, Charged, Declined, VoidedIntent, RefundedCharge)
}

func (s *Service) create(ctx context.Context, p Payment) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ProviderTimeout)
	defer cancel()
	ref, err := s.provider.Create(ctx, p.OrderID.String(), p.Amount, p.Currency, p.Method)
	if err != nil {
		return "", fmt.Errorf("%s: create intent: %w", s.cfg.ProviderName, err)
	}
	if ref == "" {
		return "", fmt.Errorf("%s: create intent: no reference in the answer", s.cfg.ProviderName)
	}
	return ref, nil
}

// ask calls the provider about an intent and accepts the results named.
func (s *Service) ask(ctx context.Context, what string, call func(context.Context, string) (Outcome, error), ref string, accepted ...Result) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ProviderTimeout)
	defer cancel()
	o, err := call(ctx, ref)
	if err != nil {
		return Outcome{}, fmt.Errorf("%s: %s %s: %w", s.cfg.ProviderName, what, ref, err)
	}
	for _, r := range accepted {
		if o.Result == r {
			return o.storable(), nil
		}
	}
	return Outcome{}, fmt.Errorf("%s: %s %s: unexpected result %q", s.cfg.ProviderName, what, ref, o.Result)
}

// sameProvider refuses payments that were begun with another provider: their
// references mean nothing here. They are tried again after a retry delay or a
// sweep, so they go on when the setting is back.
func (s *Service) sameProvider(p Payment) error {
	if p.Provider != s.cfg.ProviderName {
		return fmt.Errorf("payment %s was begun with provider %q, this service runs with %q: set PAYMENT_PROVIDER back until such payments have ended", p.ID, p.Provider, s.cfg.ProviderName)
	}
	return nil
}

// Lock reads the payments of orders ahead of the Apply methods, in one statement.
func (s *Service) Lock(ctx context.Context, tx *outbox.Tx, orders []uuid.UUID) error {
	return lockAll(ctx, tx, orders)
}

// ApplyCharge is the writing half of order.created.
func (s *Service) ApplyCharge(ctx context.Context, tx *outbox.Tx, o event.OrderCreated, out Outcome) error {
	if out.Result == "" {
		return nil // Charge had nothing to do
	}
	p, err := lock(ctx, tx, o.OrderID)
	if err != nil {
		return err
	}
	s.record(ctx, tx, p, func(p *Payment) []Fact { return p.Settle(out) })
	return nil
}

// ApplyCancel handles order.cancelled. If the order's payment has not begun it
// leaves a tombstone: an order.created that is late must not charge.
func (s *Service) ApplyCancel(ctx context.Context, tx *outbox.Tx, o event.OrderCancelled) error {
	if o.OrderID == uuid.Nil {
		return fmt.Errorf("%w: no order id", ErrUnusable)
	}
	p, err := lock(ctx, tx, o.OrderID)
	if errors.Is(err, errNone) {
		var id uuid.UUID
		if id, err = uuid.NewV7(); err != nil {
			return fmt.Errorf("make payment id: %w", err)
		}
		var done bool
		done, err = insertTombstone(ctx, tx, Payment{ID: id, OrderID: o.OrderID, CustomerID: o.CustomerID, Provider: s.cfg.ProviderName, CreatedAt: s.instant()})
		if done || err != nil {
			return err
		}
		p, err = lock(ctx, tx, o.OrderID) // it was begun between the two statements
	}
	if err != nil {
		return err
	}
	s.record(ctx, tx, p, (*Payment).Cancel)
	return nil
}

// Void is the outside half of payment.refund_requested. A payment without a
// reference was never charged, and cannot be any more: see storeRefs.
func (s *Service) Void(ctx context.Context, r event.PaymentRefundRequested) (Outcome, error) {
	p, err := current(ctx, s.db.Pool, r.OrderID)
	if err != nil || !p.Releasing() {
		return Outcome{}, err
	}
	if p.ProviderRef == "" {
		return Outcome{Result: VoidedIntent}, nil
	}
	if err := s.sameProvider(p); err != nil {
		return Outcome{}, err
	}
	return s.ask(ctx, "void", s.provider.Void, p.ProviderRef, VoidedIntent, RefundedCharge)
}

// ApplyVoid is the writing half of payment.refund_requested.
func (s *Service) ApplyVoid(ctx context.Context, tx *outbox.Tx, r event.PaymentRefundRequested, out Outcome) error {
	if out.Result == "" {
		return nil // it has ended already
	}
	p, err := lock(ctx, tx, r.OrderID)
	if err != nil {
		return err
	}
	s.record(ctx, tx, p, func(p *Payment) []Fact { return p.Release(out) })
	return nil
}

// record applies a rule to a payment whose row is locked, and stores and tells
// what it changed.
func (s *Service) record(ctx context.Context, tx *outbox.Tx, p Payment, rule func(*Payment) []Fact) {
	before := p
	facts := rule(&p)
	if p.Status == before.Status && p.CancelRequested == before.CancelRequested {
		return
	}
	p.UpdatedAt = s.instant()
	s.tell(ctx, tx, p, facts)
}

// tell stores a payment whose row is locked and emits what happened to it.
func (s *Service) tell(ctx context.Context, tx *outbox.Tx, p Payment, facts []Fact) {
	p.RefundDue = nil
	if p.Releasing() {
		p.RefundAsks++
		due := p.UpdatedAt.Add(s.refundWait(p.RefundAsks))
		p.RefundDue = &due
	}
	update(tx, p)
	for _, f := range facts {
		e := event.New(Source, payload(p, f))
		e.Time = p.UpdatedAt
		tx.Emit(ctx, e)
	}
}

func payload(p Payment, f Fact) event.Payload {
	switch f {
	case FactCompleted:
		return event.PaymentCompleted{
			PaymentID: p.ID, OrderID: p.OrderID, CustomerID: p.CustomerID, Amount: p.Amount, Currency: p.Currency,
			ProviderRef: p.ProviderRef, CompletedAt: p.UpdatedAt,
		}
	case FactFailed:
		return event.PaymentFailed{
			PaymentID: p.ID, OrderID: p.OrderID, CustomerID: p.CustomerID, Amount: p.Amount, Currency: p.Currency,
			Code: p.FailureCode, Message: p.FailureMessage, FailedAt: p.UpdatedAt,
		}
	case FactRefunded:
		return event.PaymentRefunded{
			PaymentID: p.ID, OrderID: p.OrderID, CustomerID: p.CustomerID, Amount: p.Amount, Currency: p.Currency,
			ProviderRef: p.ProviderRef, RefundedAt: p.UpdatedAt,
		}
	default:
		return event.PaymentRefundRequested{PaymentID: p.ID, OrderID: p.OrderID, RequestedAt: p.UpdatedAt}
	}
}

// instant is now as the database keeps it, so that what is told equals what is
// stored.
func (s *Service) instant() time.Time { return s.now().UTC().Truncate(time.Microsecond) }
