// Package httpxtest holds requests that attack the HTTP edge, for the tests of
// the gateway and of the services alike, and raw connections to send them on.
package httpxtest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Smuggled is the path of the request that nobody may take for one. The gateway
// would forward it.
const Smuggled = "/restaurants/smuggled"

const hidden = "GET " + Smuggled + " HTTP/1.1\r\nHost: x\r\n\r\n"

// encodings are spellings of Transfer-Encoding: chunked that some reader takes
// for it and another does not.
var encodings = []string{
	"Transfer-Encoding: chunked", "transfer-encoding: CHUNKED", "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked \t",
	"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
	"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity, chunked",
	"Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding: chunked;q=1",
	"Transfer-Encoding: xchunked", "Transfer-Encoding: chunkedx", "Transfer-Encoding: chunk", "Transfer-Encoding: identity", "Transfer-Encoding:", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: 'chunked'",
	"Transfer-Encoding:\x0bchunked", "Transfer-Encoding: \x0cchunked", "Transfer-Encoding: chunked\x0b", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: chun\x00ked", "Transfer-Encoding:\xa0chunked",
	"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding\x00: chunked", "Transfer-Encoding\xa0: chunked",
	"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "Connection: Content-Length\r\nTransfer-Encoding: chunked",
}

// disguised are lines that no strict reader takes for Transfer-Encoding.
var disguised = []string{
	" Transfer-Encoding: chunked", "X: y\r\n Transfer-Encoding: chunked", "Transfer-Encoding:\r\n chunked", "Transfer-Encoding:\r\n\tchunked", "Transfer-Encoding\r\n: chunked",
	"X: y\nTransfer-Encoding: chunked", "X: y\rTransfer-Encoding: chunked", "X: y\r\rTransfer-Encoding: chunked", "\nTransfer-Encoding: chunked", "\rTransfer-Encoding: chunked",
	"Transfer_Encoding: chunked", "Transfer-Encod\u0131ng: chunked", "X-Transfer-Encoding: chunked", "TE: chunked", "Content-Encoding: chunked", "Trailer: Transfer-Encoding", "Transfer-Encoding chunked", ": chunked",
}

// lengths are two readings of Content-Length; %d is where the body really ends.
var lengths = []string{
	"Content-Length: 0\r\nContent-Length: %d", "Content-Length: %d\r\nContent-Length: 0", "Content-Length: %d\r\nContent-Length: %[1]d", "Content-Length: 0, %d", "Content-Length: %d, %[1]d",
	"Content-Length: +%d", "Content-Length: -%d", "Content-Length: 0x%x", "Content-Length: %d.0", "Content-Length: %de0", "Content-Length: %d;", "Content-Length: %d 0", "Content-Length: \"%d\"",
	"Content-Length:\x0b%d", "Content-Length: %d\x00", "Content-Length : %d", "Content-Length\t: %d", "Content-Length\x00: %d", "Content-Length: 18446744073709551616%d",
	"Content-Length: 0\r\nContent_Length: %d\r\nContent-Length: %[1]d", "X: y\r\n Content-Length: 0\r\nContent-Length: %d", "Content-Length:\r\n %d", "X: y\nContent-Length: 0\r\nContent-Length: %d",
}

// chunks are bodies in chunks with a bad end, before what is hidden.
var chunks = map[string]string{
	"no number": "x\r\nhello\r\n0\r\n\r\n", "negative": "-5\r\nhello\r\n0\r\n\r\n", "signed": "+5\r\nhello\r\n0\r\n\r\n", "prefix": "0x5\r\nhello\r\n0\r\n\r\n", "underscore": "0_5\r\nhello\r\n0\r\n\r\n",
	"empty": "\r\nhello\r\n0\r\n\r\n", "overflow": "10000000000000005\r\nhello\r\n0\r\n\r\n", "overflow to 0": "10000000000000000\r\n\r\n", "too long": "5\r\nhelloX\r\n0\r\n\r\n", "too short": "5\r\nhell\r\n0\r\n\r\n",
	"space first": " 5\r\nhello\r\n0\r\n\r\n", "bare line feed": "5\nhello\r\n0\r\n\r\n", "line feed after": "5\r\nhello\n0\r\n\r\n", "line feed at the end": "5\r\nhello\r\n0\n\r\n", "line feeds only": "5\nhello\n0\n\n",
	"bare carriage return": "5\rhello\r\n0\r\n\r\n", "line feed in an extension": "5;a\nb\r\nhello\r\n0\r\n\r\n", "carriage return in an extension": "5;a\rb\r\nhello\r\n0\r\n\r\n",
	"long extension": "5;" + strings.Repeat("a", 100_000) + "\r\nhello\r\n0\r\n\r\n", "trailer with a line feed": "0\r\nX: y\nZ: z\r\n\r\n",
	"NUL": "5\x00\r\nhello\r\n0\r\n\r\n",
}

// Smuggling returns by their trick requests that hide another one. Each begins
// with a POST to path; what a strict reader sees behind it, if it sees
// anything, is a request that asks for the close.
func Smuggling(path string) map[string]string {
	all := map[string]string{}
	for _, version := range []string{"1.1", "1.0"} {
		post := "POST " + path + " HTTP/" + version + "\r\nHost: x\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
		add := func(name, fields, body string) {
			all[fmt.Sprintf("HTTP/%s %.60q", version, name)] = post + fields + "\r\n\r\n" + body + "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		}
		ended := "0\r\n\r\n" + hidden
		whole := fmt.Sprintf("Content-Length: %d", len(ended))
		chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
		for _, e := range append(append([]string{}, encodings...), disguised...) {
			add("CL.TE "+e, whole+"\r\n"+e, ended)
			add("TE.CL "+e, e+"\r\n"+whole, ended)
		}
		for _, e := range encodings {
			add("the chunk hides it: "+e, e+"\r\nContent-Length: 4", chunk)
		}
		for _, l := range lengths {
			add(l, fmt.Sprintf(l, len(hidden)), hidden)
		}
		for name, c := range chunks {
			add("chunk: "+name, "Transfer-Encoding: chunked", c+hidden)
		}
	}
	return all
}

// Send sends raw bytes to addr and returns all that comes back until the server
// closes. A server that does not is a failure: it still waits for something.
func Send(t *testing.T, addr, raw string) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	sent := make(chan struct{})
	go func() { // the server may answer, and close, before it has read all
		defer close(sent)
		_, _ = io.WriteString(c, raw)
	}()
	answer, err := io.ReadAll(c)
	if err != nil {
		require.ErrorContains(t, err, "reset", "%.300q got %.300q", raw, answer)
	}
	<-sent
	return string(answer)
}
