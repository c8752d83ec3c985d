//go:build unix

package kafkaserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Not parallel: the environment is the process's.
func TestJavaIsNamedWithWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"too old": {`echo 'openjdk version "11.0.2"' >&2`, "is Java 11, Apache Kafka 4.4.0 needs 17 or newer"},
		"broken":  {`echo 'no libjvm.so' >&2; exit 1`, "no libjvm.so"},
		"other":   {`echo hello`, `-version says "hello\n"`},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(home, "bin"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(home, "bin", "java"), []byte("#!/bin/sh\n"+c.script+"\n"), 0o700))
			t.Setenv("JAVA_HOME", home)
			_, _, err := findJava(t.Context())
			require.ErrorContains(t, err, c.want)
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Setenv("JAVA_HOME", t.TempDir())
		t.Setenv("PATH", t.TempDir())
		_, _, err := findJava(t.Context())
		require.ErrorContains(t, err, "KAFKA=real needs Java 17 or newer on PATH or in JAVA_HOME")
		require.ErrorContains(t, fetch(t.Context(), t.TempDir(), func(string) {}), "KAFKA=real needs Maven once")
	})
}

func TestJavaOfTheRightVersion(t *testing.T) {
	home := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(home, "bin"), 0o700))
	java := filepath.Join(home, "bin", "java")
	require.NoError(t, os.WriteFile(java, []byte("#!/bin/sh\necho 'openjdk version \"21.0.1\"' >&2\n"), 0o700))
	t.Setenv("JAVA_HOME", home)
	path, build, err := findJava(t.Context())
	require.NoError(t, err)
	require.Equal(t, java, path)
	require.Len(t, build, 12)
}
