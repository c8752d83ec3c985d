package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// class says what an error means for the record it belongs to.
type class int

const (
	classTransient      class = iota // counted: retried later, in the end dead
	classPermanent                   // dead now: the handler said so
	classUndecodable                 // dead now: no handler can read it
	classConstraint                  // dead now: its data breaks a rule of the database
	classUnknownType                 // dead now: the topic is not of this type
	classUnroutable                  // dead now: a retry of a topic that the group does not consume
	classExpired                     // dead now: whether it was handled is forgotten
	classOversize                    // dead now: too large for a retry
	classRace                        // not counted: run the same again
	classInfrastructure              // not counted: wait until the database answers
	classStopped                     // not counted: shutdown or rebalance
)

func (c class) String() string {
	return [...]string{"transient", "permanent", "undecodable", "constraint", "unknown_type", "unroutable", "expired", "oversize",
		"race", "infrastructure", "stopped"}[c]
}

// phase is where in a transaction an error came from.
type phase int

const (
	phasePrepare phase = iota // outside of any transaction
	phaseBegin                // our own statements, before any handler
	phaseApply                // a handler
	phaseCommit               // queued statements, records, COMMIT
)

// classify decides by origin first: the same error means another thing when it
// comes from the outside world than when it comes from our own database. broken
// tells that the transaction's connection is lost.
func classify(ctx context.Context, err error, in phase, broken bool) class {
	if ctx.Err() != nil {
		return classStopped
	}
	if c, ok := errors.AsType[*classified](err); ok {
		return c.class
	}
	if in == phasePrepare {
		return classTransient
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		c := classOfState(pg.Code)
		if in == phaseBegin && c != classRace {
			// Our own statements do not depend on what is in a record.
			return classInfrastructure
		}
		return c
	}
	if _, ok := errors.AsType[*outbox.RecordError](err); ok {
		return classPermanent // an event that cannot be published
	}
	switch {
	case in == phaseBegin, errors.Is(err, outbox.ErrInDoubt):
		return classInfrastructure
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return classTransient // a limit that the handler set itself
	case broken:
		return classInfrastructure
	}
	return classTransient
}

// classOfState maps an SQLSTATE.
func classOfState(code string) class {
	switch code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock timeout
		return classRace
	case "25006": // the server became a replica
		return classInfrastructure
	case "23505", "23503", "23P01":
		// A race with another writer, or an event that came before the row it
		// refers to: later it may fit.
		return classTransient
	}
	switch {
	case len(code) != 5:
		return classTransient
	case code[:2] == "08", code[:2] == "53", code[:2] == "58", code[:3] == "57P":
		return classInfrastructure
	case code[:2] == "22", code[:2] == "23":
		return classConstraint
	}
	return classTransient
}

// typeOf names an error for the x-error-type header.
func typeOf(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return "SQLSTATE " + pg.Code
	}
	for {
		c, ok := err.(*classified) //nolint:errorlint // only the outermost wrapper hides the type
		if !ok {
			return fmt.Sprintf("%T", err)
		}
		err = c.err
	}
}

// panicError is what a handler's panic becomes.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// fault is why a batch was rolled back.
type fault struct {
	index int // of the record it belongs to, -1 when that is unknown
	class class
	err   error
}

// errPrepareAgain is the fault of a record whose key was parked when Prepare
// would have been called and no longer is.
var errPrepareAgain = errors.New("not prepared yet")
