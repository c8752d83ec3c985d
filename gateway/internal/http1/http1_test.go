package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// read returns the first answer of a text and its body.
func read(text string) (p Response, body string, err error) {
	src := strings.NewReader(text)
	r := NewReader(make([]byte, 16))
	var head string
	for head, err = r.Head(); errors.Is(err, ErrMore); head, err = r.Head() {
		if err := r.Fill(src); err != nil {
			return p, "", err
		}
	}
	if err == nil {
		err = p.Parse(head)
	}
	if err != nil {
		return p, "", err
	}
	var b Body
	b.Start(p.Length)
	for {
		piece, err := b.Next(&r)
		body += string(piece)
		if errors.Is(err, ErrMore) {
			if err = r.Fill(src); errors.Is(err, io.EOF) && !b.UntilClose() {
				err = io.ErrUnexpectedEOF
			}
		}
		if errors.Is(err, io.EOF) {
			return p, body, nil
		}
		if err != nil {
			return p, body, err
		}
	}
}

func TestAnswersThatAreRefused(t *testing.T) {
	t.Parallel()
	const ok, chunked = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, text := range map[string]string{
		"an empty line before":      "\r\n" + ok + "\r\n",
		"HTTP/2":                    "HTTP/2.0 200 OK\r\n\r\n",
		"no status":                 "HTTP/1.1 \r\n\r\n",
		"two digits":                "HTTP/1.1 20 OK\r\n\r\n",
		"four digits":               "HTTP/1.1 2000 OK\r\n\r\n",
		"signed":                    "HTTP/1.1 +20 OK\r\n\r\n",
		"below 100":                 "HTTP/1.1 099 OK\r\n\r\n",
		"control in the reason":     "HTTP/1.1 200 O\x00K\r\n\r\n",
		"bare line feed":            "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
		"folded line":               ok + "A: b\r\n c\r\n\r\n",
		"two lengths":               ok + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
		"length and chunked":        ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunked in HTTP/1.0":       "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"gzip":                      ok + "Transfer-Encoding: gzip\r\n\r\n",
		"negative length":           ok + "Content-Length: -1\r\n\r\n",
		"a body without content":    "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\nx",
		"chunks without content":    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"an interim answer's body":  "HTTP/1.1 103 Early Hints\r\nContent-Length: 1\r\n\r\nx",
		"too many fields":           ok + strings.Repeat("A: b\r\n", MaxFields+1) + "\r\n",
		"a head that is too large":  ok + "A: " + strings.Repeat("b", MaxHead) + "\r\n\r\n",
		"no end":                    ok + "A: " + strings.Repeat("b", 2*MaxHead),
		"cut":                       ok + "Content-Length: 5\r\n\r\nhell",
		"cut chunk":                 chunked + "5\r\nhell",
		"no last chunk":             chunked + "1\r\nx\r\n",
		"bad size":                  chunked + "g\r\n",
		"size of 16 digits":         chunked + "0000000000000001\r\nx\r\n0\r\n\r\n",
		"size with a sign":          chunked + "+1\r\nx\r\n0\r\n\r\n",
		"size with spaces":          chunked + "1 \r\nx\r\n0\r\n\r\n",
		"control in an extension":   chunked + "1;a=\x01\r\nx\r\n0\r\n\r\n",
		"a long extension":          chunked + "1;" + strings.Repeat("a", maxChunkLine) + "\r\nx\r\n0\r\n\r\n",
		"an endless extension":      chunked + "1;" + strings.Repeat("a", 1<<20),
		"a chunk over its size":     chunked + "1\r\nxy\r\n0\r\n\r\n",
		"bare line feed in a chunk": chunked + "1\nx\r\n0\r\n\r\n",
		"a trailer without a name":  chunked + "0\r\n: x\r\n\r\n",
		"a folded trailer":          chunked + "0\r\nA: b\r\n c\r\n\r\n",
		"a long trailer":            chunked + "0\r\n" + strings.Repeat("A: bcdefghijklmnop\r\n", 1000) + "\r\n",
		"an endless trailer":        chunked + "0\r\nA: " + strings.Repeat("b", 1<<20),
	} {
		_, _, err := read(text)
		require.Error(t, err, name)
	}
}

func TestAnErrorInABodyStays(t *testing.T) {
	t.Parallel()
	r := NewReader(make([]byte, 64))
	require.NoError(t, r.Fill(strings.NewReader("x\r\n1\r\ny\r\n0\r\n\r\n")))
	var b Body
	b.Start(Chunked)
	for range 3 {
		_, err := b.Next(&r)
		require.ErrorAs(t, err, new(SyntaxError), "what follows a bad chunk is never read")
		require.False(t, b.Done())
	}
}

func TestTheLargestHead(t *testing.T) {
	t.Parallel()
	const begin = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: "
	head := func(size int) string { return begin + strings.Repeat("x", size-len(begin)-4) + "\r\n\r\n" }
	p, _, err := read(head(MaxHead))
	require.NoError(t, err)
	require.Len(t, p.Fields, 2)
	_, _, err = read(head(MaxHead + 1))
	require.ErrorIs(t, err, ErrHeadTooLarge)
}

func TestNamesAreLowerAndValuesAsTheyWere(t *testing.T) {
	t.Parallel()
	p, body, err := read("HTTP/1.1 200\r\nX-ABC:\t D e:F \t\r\nEMPTY:\r\ncontent-LENGTH: 02\r\nCONNECTION: Keep-Alive ,\tCLOSE\r\n\r\nok")
	require.NoError(t, err)
	require.Equal(t, "ok", body)
	require.True(t, p.Close)
	require.Equal(t, []Field{{"x-abc", "D e:F"}, {"empty", ""}, {"content-length", "02"}, {"connection", "Keep-Alive ,\tCLOSE"}}, p.Fields)
}

// A reader's memory does not grow with what passes through it.
func TestABodyNeedsNoMoreThanTheBuffer(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	for range 1000 {
		fmt.Fprintf(&text, "%x\r\n%s\r\n", 1000, strings.Repeat("x", 1000))
	}
	text.WriteString("0\r\n\r\n")
	r := NewReader(make([]byte, 300))
	var b Body
	b.Start(Chunked)
	n := 0
	for {
		piece, err := b.Next(&r)
		n += len(piece)
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, ErrMore) {
			err = r.Fill(&text)
		}
		require.NoError(t, err)
	}
	require.Equal(t, 1_000_000, n)
	require.Len(t, r.Take(), 300)
}
