package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	pg := func(code string) error {
		return fmt.Errorf("handle: %w", &outbox.StatementError{Err: &pgconn.PgError{Code: code}})
	}
	plain := errors.New("boom")
	for name, test := range map[string]struct {
		err    error
		in     phase
		broken bool
		want   class
	}{
		"plain":                               {plain, phaseApply, false, classTransient},
		"plain, connection lost":              {io.ErrUnexpectedEOF, phaseApply, true, classInfrastructure},
		"from Prepare, never infrastructure":  {pg("57P01"), phasePrepare, false, classTransient},
		"from Prepare, a data error":          {pg("22P02"), phasePrepare, false, classTransient},
		"from Prepare, permanent":             {Permanent(plain), phasePrepare, false, classPermanent},
		"permanent":                           {fmt.Errorf("x: %w", Permanent(plain)), phaseApply, false, classPermanent},
		"server stops":                        {pg("57P01"), phaseApply, true, classInfrastructure},
		"server full":                         {pg("53300"), phaseApply, false, classInfrastructure},
		"disk full":                           {pg("53100"), phaseCommit, false, classInfrastructure},
		"connection":                          {pg("08006"), phaseCommit, false, classInfrastructure},
		"read-only":                           {pg("25006"), phaseApply, false, classInfrastructure},
		"io error of the server":              {pg("58030"), phaseApply, false, classInfrastructure},
		"deadlock":                            {pg("40P01"), phaseApply, false, classRace},
		"serialization":                       {pg("40001"), phaseCommit, false, classRace},
		"lock timeout":                        {pg("55P03"), phaseApply, false, classRace},
		"lock timeout of our own":             {pg("55P03"), phaseBegin, false, classRace},
		"data":                                {pg("22001"), phaseApply, false, classConstraint},
		"check":                               {pg("23514"), phaseCommit, false, classConstraint},
		"not null":                            {pg("23502"), phaseCommit, false, classConstraint},
		"unique":                              {pg("23505"), phaseCommit, false, classTransient},
		"foreign key":                         {pg("23503"), phaseApply, false, classTransient},
		"statement timeout":                   {pg("57014"), phaseApply, false, classTransient},
		"idle in transaction, connection cut": {pg("25P03"), phaseApply, true, classTransient},
		"missing column":                      {pg("42703"), phaseApply, false, classTransient},
		"missing table of ours":               {pg("42P01"), phaseBegin, false, classInfrastructure},
		"no connection":                       {errors.New("dial"), phaseBegin, false, classInfrastructure},
		"commit in doubt":                     {fmt.Errorf("%w: %w", outbox.ErrInDoubt, io.EOF), phaseCommit, true, classInfrastructure},
		"a limit of the handler's own":        {context.DeadlineExceeded, phaseApply, true, classTransient},
		"an event that cannot be published":   {&outbox.RecordError{Err: plain}, phaseCommit, false, classPermanent},
		"a code of no known form":             {pg("?"), phaseApply, false, classTransient},
	} {
		require.Equal(t, test.want, classify(t.Context(), test.err, test.in, test.broken), name)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, classStopped, classify(ended, Permanent(plain), phaseApply, false))
	require.Equal(t, "stopped", classStopped.String())
	require.NoError(t, Permanent(nil))
}

func TestTypeOfErrors(t *testing.T) {
	t.Parallel()
	require.Equal(t, "SQLSTATE 23514", typeOf(fmt.Errorf("x: %w", &pgconn.PgError{Code: "23514"})))
	require.Equal(t, "*errors.errorString", typeOf(Permanent(errors.New("x"))))
	require.Equal(t, "*kafka.panicError", typeOf(&panicError{}))
}

func TestHeadersAreASCIIAndBounded(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a?b?c", ascii("a\nb\x00c", 100))
	require.Len(t, ascii(strings.Repeat("é", 5000), maxMessage), maxMessage/2)
	for _, r := range ascii("tschüß\xff€", 100) {
		require.True(t, r >= ' ' && r <= '~')
	}
}
