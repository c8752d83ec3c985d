package measure

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStatFieldsSurviveNames(t *testing.T) {
	t.Parallel()
	fields, err := statFields("42 (a) b (c)) S 7 42 42 0 -1 4194304 100 0 0 0 123 45 6 7 20 0 1 0 99 1000 200 18446744073709551615 0\n")
	require.NoError(t, err)
	require.Equal(t, "S", fields[0])
	require.Equal(t, "7", fields[1], "the parent")
	require.Equal(t, "123", fields[11], "user time")
	require.Equal(t, "45", fields[12], "system time")
	_, err = statFields("42 (short) S 7")
	require.EqualError(t, err, "stat has 2 fields")
}

func TestOwnUse(t *testing.T) {
	t.Parallel()
	before, err := CPU(os.Getpid())
	if errors.Is(err, ErrNoProc) {
		return // said by the error; nothing to check here
	}
	require.NoError(t, err)
	machine, err := Machine()
	require.NoError(t, err)
	for began := time.Now(); time.Since(began) < 60*time.Millisecond; { // burns, on purpose
	}
	after, err := FamilyCPU(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, after, before)
	machineAfter, err := Machine()
	require.NoError(t, err)
	require.Greater(t, machineAfter, machine)
	rss, err := RSS(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, rss, 1.0)
}
