// Package errs names the kinds of errors that reach a client.
//
// Domain code returns an *Error where the client did something it can mend;
// package httpx maps each Kind once to a status and an RFC 9457 problem.
// Any other error is Internal: the client gets a bare 500, the log gets the cause.
package errs

import (
	"errors"
	"fmt"
	"time"
)

// Kind says what went wrong from the client's point of view.
type Kind int

// The kinds, each with one HTTP status and one problem type (see httpx).
const (
	Internal         Kind = iota // 500, the zero value: the cause is ours
	Malformed                    // 400: not readable as the request it should be
	Unauthenticated              // 401
	Forbidden                    // 403: known, but the role does not allow it
	NotFound                     // 404: also for what belongs to somebody else
	MethodNotAllowed             // 405
	Conflict                     // 409: at odds with the present state
	TooLarge                     // 413
	UnsupportedMedia             // 415
	Invalid                      // 422: readable, but it breaks a rule
	RateLimited                  // 429
	HeadTooLarge                 // 431
	BadGateway                   // 502
	Unavailable                  // 503
	GatewayTimeout               // 504
)

// Field is one problem at one place of the request body.
type Field struct {
	Pointer string // JSON pointer (RFC 6901), such as /items/0/quantity
	Detail  string // what would be right, such as "must be from 1 to 99"
}

// Error is an error whose Detail may be shown to the client. Err, if any, is
// for the log only.
type Error struct {
	Kind       Kind
	Detail     string
	Fields     []Field
	RetryAfter time.Duration // when positive, becomes Retry-After in whole seconds
	Err        error
}

// New returns an error of kind k with a detail for the client.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Detail: fmt.Sprintf(format, args...)}
}

// BadFields returns an error of kind k, Malformed or Invalid, that lists what
// is wrong where.
func BadFields(k Kind, fields ...Field) *Error {
	detail := "the request has problems; see errors"
	if len(fields) == 1 {
		detail = "the request has a problem; see errors"
	}
	return &Error{Kind: k, Detail: detail, Fields: fields}
}

// KindOf returns the kind that err carries anywhere in its chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Error gives the detail, the fields and the cause, for logs.
func (e *Error) Error() string {
	s := e.Detail
	for _, f := range e.Fields {
		s += "; " + f.Pointer + ": " + f.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
