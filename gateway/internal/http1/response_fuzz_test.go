package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzResponses: what the gateway accepts as an answer net/http reads as the
// same answer.
func FuzzResponses(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nuntil the end",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 \r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		src := bytes.NewReader(input)
		r := NewReader(make([]byte, 64))
		head, err := r.Head()
		for errors.Is(err, ErrMore) && r.Fill(src) == nil {
			head, err = r.Head()
		}
		var p Response
		if err != nil || p.Parse(head) != nil {
			return
		}
		body := ""
		var b Body
		b.Start(p.Length)
		for {
			piece, err := b.Next(&r)
			if errors.Is(err, ErrMore) {
				if err = r.Fill(src); errors.Is(err, io.EOF) && !b.UntilClose() {
					return // cut
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
			body += string(piece)
		}
		theirs, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(input), len(input)+16), &http.Request{Method: "GET"})
		if err != nil && strings.Contains(err.Error(), "bad trailer key") {
			return // over a field that means nothing here
		}
		require.NoError(t, err, "%+v", p)
		require.Equal(t, p.Status, theirs.StatusCode)
		want := http.Header{}
		for _, field := range p.Fields {
			if field.Name != "transfer-encoding" && field.Name != "trailer" && field.Name != "connection" {
				want.Add(field.Name, field.Value)
			}
		}
		theirs.Header.Del("Trailer")
		theirs.Header.Del("Connection") // net/http removes it now and then
		if theirs.Header.Get("Pragma") == "no-cache" && want.Get("Cache-Control") == "" {
			theirs.Header.Del("Cache-Control") // net/http adds it
		}
		require.Equal(t, want, theirs.Header)
		got, err := io.ReadAll(theirs.Body)
		if err != nil && strings.Contains(err.Error(), "trailer") {
			return
		}
		require.NoError(t, err)
		require.Equal(t, body, string(got))
	})
}
