package errs_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

func TestKindOfFindsTheKindThroughWrapping(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("place order: %w", errs.New(errs.Conflict, "already %s", "cancelled"))
	require.Equal(t, errs.Conflict, errs.KindOf(err))
	require.Equal(t, errs.Internal, errs.KindOf(errors.New("disk on fire")))
	require.Equal(t, errs.Internal, errs.KindOf(nil))
}

func TestErrorTellsFieldsAndCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	e := errs.BadFields(errs.Invalid, errs.Field{Pointer: "/total", Detail: "must be positive"})
	e.Err = cause
	require.ErrorIs(t, e, cause)
	require.EqualError(t, e, "the request has a problem; see errors; /total: must be positive: cause")
}
