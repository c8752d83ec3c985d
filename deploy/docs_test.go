// Package deploy_test checks what the repository says about itself.
package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	linked   = regexp.MustCompile(`\[((?:Test|Fuzz|Benchmark)[A-Z]\w+)\]\(([^)]+)\)`)
	named    = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
)

// A promise with a test beside it is worth nothing when there is no such test:
// every test that a document names exists, and stands where a link says.
func TestEveryTestThatADocumentNamesExists(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	tests := map[string]map[string]bool{} // by file
	everywhere := map[string]bool{}
	var documents []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(name, ".") && path != root:
			return fs.SkipDir
		case strings.HasSuffix(name, ".md"):
			documents = append(documents, path)
		case strings.HasSuffix(name, "_test.go"):
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			tests[path] = map[string]bool{}
			for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
				tests[path][m[1]], everywhere[m[1]] = true, true
			}
		}
		return nil
	}))

	found := 0
	for _, document := range documents {
		text, err := os.ReadFile(document)
		require.NoError(t, err)
		for _, name := range named.FindAllString(string(text), -1) {
			found++
			require.True(t, everywhere[name], "%s names %s, which is nowhere", document, name)
		}
		for _, m := range linked.FindAllStringSubmatch(string(text), -1) {
			file := filepath.Join(filepath.Dir(document), m[2])
			require.True(t, tests[file][m[1]], "%s says that %s stands in %s", document, m[1], m[2])
		}
	}
	require.Greater(t, found, 50, "the documents were read")
}
