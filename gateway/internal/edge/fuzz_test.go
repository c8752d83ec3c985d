package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tiffin-platform/tiffin/gateway/internal/http1"
)

// pieces gives its bytes in pieces.
type pieces struct {
	rest []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.size, len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

// read is a request as a connection reads it, with its body in full.
type read struct {
	http1.Request
	body string
}

// readAll reads requests until one is not acceptable or not complete.
func readAll(src io.Reader) (all []read) {
	r := http1.NewReader(make([]byte, 64))
	for {
		r.SkipEmptyLines()
		head, err := r.Head()
		if errors.Is(err, http1.ErrMore) {
			if r.Fill(src) != nil {
				return all
			}
			continue
		}
		var q read
		if err != nil || q.Parse(head) != nil {
			return all
		}
		var body http1.Body
		body.Start(q.Length)
		for {
			piece, err := body.Next(&r)
			if errors.Is(err, http1.ErrMore) {
				err = r.Fill(src)
			}
			if errors.Is(err, io.EOF) && body.Done() {
				break
			}
			if err != nil {
				return all
			}
			q.body += string(piece)
		}
		all = append(all, q)
	}
}

// FuzzRequests: what the gateway accepts net/http reads as the same requests,
// whatever pieces the bytes come in.
func FuzzRequests(f *testing.F) {
	const get = "GET /orders?a=b HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, s := range []string{
		get + "\r\n" + get,
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + get,
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nA: b\r\n\r\n" + get,
		"POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST http://a/%41?b HTTP/1.1\r\nhOST: x:1\r\nConnection: close, X\r\nX: \t y \r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
		"GET http://^/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nA:\r\nA: b\xff\r\n\r\n",
	} {
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, input []byte, size int) {
		ours := readAll(&pieces{input, max(1, min(size, 4096))})
		require.Equal(t, ours, readAll(bytes.NewReader(input)))
		in := bufio.NewReaderSize(bytes.NewReader(input), len(input)+16)
		for _, q := range ours {
			for next, _ := in.Peek(2); string(next) == "\r\n"; next, _ = in.Peek(2) {
				_, _ = in.Discard(2)
			}
			theirs, err := http.ReadRequest(in)
			if _, bad := parseTarget(q.Target); err != nil && (bad != nil || strings.Contains(err.Error(), "bad trailer key")) {
				return // refused by both, or over a field that never passes
			}
			require.NoError(t, err, "%+v", q)
			require.Equal(t, q.Method, theirs.Method)
			require.Equal(t, q.Target, theirs.RequestURI)
			require.Equal(t, q.Old, !theirs.ProtoAtLeast(1, 1))
			want := http.Header{}
			for _, field := range q.Fields {
				if field.Name != "host" && field.Name != "transfer-encoding" && field.Name != "trailer" {
					want.Add(field.Name, field.Value)
				}
			}
			theirs.Header.Del("Trailer")
			if theirs.Header.Get("Pragma") == "no-cache" && want.Get("Cache-Control") == "" {
				theirs.Header.Del("Cache-Control") // net/http adds it
			}
			require.Equal(t, want, theirs.Header)
			body, err := io.ReadAll(theirs.Body)
			if err != nil && strings.Contains(err.Error(), "trailer") {
				return
			}
			require.NoError(t, err)
			require.Equal(t, q.body, string(body))
		}
	})
}
