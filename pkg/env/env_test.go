package env_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/pkg/env"
)

func reader(vars map[string]string) *env.Reader {
	return env.New(func(name string) string { return vars[name] })
}

func TestDefaultsHoldWhenNothingIsSet(t *testing.T) {
	t.Parallel()
	r := reader(nil)
	require.Equal(t, "x", r.String("A", "x"))
	require.Equal(t, 3, r.Int("B", 3, 1, 9))
	require.True(t, r.Bool("C", true))
	require.Equal(t, time.Second, r.Duration("D", time.Second, 0, time.Minute))
	require.Equal(t, []string{"a", "b"}, r.List("E", "a", "b"))
	require.Equal(t, ":5000", r.Addr("F", ":5000"))
	require.Equal(t, "http://localhost:5001", r.URL("G", "http://localhost:5001").String())
	require.Empty(t, r.Secret("H"))
	require.NoError(t, r.Err())
}

func TestEveryProblemIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	r := reader(map[string]string{
		"INT": "many", "BOOL": "perhaps", "DUR": "5", "DURS": "1s,-2s", "ONE": "z",
		"ADDR": "5000", "URL": "localhost:1", "LOGIN": "http://u:sekret@host", "LIST": " , ", "S_FILE": "/no/such/file", "BOTH": "x", "BOTH_FILE": "/etc/hosts",
	})
	r.Int("INT", 1, 0, 9)
	r.Bool("BOOL", false)
	r.Duration("DUR", 0, 0, time.Hour)
	r.Durations("DURS", nil)
	r.OneOf("ONE", "a", "a", "b")
	r.Addr("ADDR", ":1")
	r.URL("URL", "http://localhost:1")
	r.URL("LOGIN", "http://localhost:1")
	r.List("LIST")
	r.Secret("S")
	r.Secret("BOTH")
	r.Fail("OWN", "is %s", "odd")
	require.EqualError(t, r.Err(), `INT: "many" must be a whole number from 0 to 9
BOOL: "perhaps" must be true or false
DUR: "5" must be a duration such as 30s or 5m, from 0s to 1h0m0s
DURS: "-2s" must be a positive duration such as 5s
ONE: "z" must be one of a, b
ADDR: "5000" must be an address to listen on, such as :5000 or 127.0.0.1:5000
URL: "localhost:1" must be an address such as http://localhost:5001
LOGIN: "http://u:xxxxx@host" must be an address such as http://localhost:5001
LIST: " , " holds no value
S_FILE: cannot read it: stat /no/such/file: no such file or directory
BOTH: set it or BOTH_FILE, not both
OWN: is odd`)
}

func TestAValueMayComeFromAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, []byte("s3cret\n"), 0o600))
	r := reader(map[string]string{"PASSWORD_FILE": path})
	require.Equal(t, "s3cret", r.Secret("PASSWORD"))
	require.NoError(t, r.Err())
}
