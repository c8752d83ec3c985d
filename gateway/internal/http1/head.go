package http1

import (
	"net/http"
	"strconv"
	"strings"
)

// Field is a line of a head or a trailer; its name is in lower case.
type Field struct{ Name, Value string }

// Lengths of bodies that no field tells.
const (
	Chunked    int64 = -1
	UntilClose int64 = -2 // an answer's that ends with the connection
)

// Request is the head of a request.
type Request struct {
	Method, Target string
	Old            bool // HTTP/1.0
	Fields         []Field
	Host           string
	Length         int64 // of its body: 0 when there is none, or Chunked
	Close          bool  // the client wants no further answer on the connection
	Expect         bool  // it waits for a 100 before it sends the body
}

// Parse reads a head, as Reader.Head returns it, in place of what q was. q's
// text shares the memory of the head.
func (q *Request) Parse(head string) error {
	*q = Request{Fields: q.Fields[:0]}
	line, lines, _ := strings.Cut(head, "\r\n")
	var version string
	var ok bool
	if q.Method, line, ok = strings.Cut(line, " "); !ok || !token(q.Method) {
		return SyntaxError("bad request line")
	}
	if q.Target, version, ok = strings.Cut(line, " "); !ok || !visible(q.Target) {
		return SyntaxError("bad request target")
	}
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		q.Old, q.Close = true, true
	default:
		return SyntaxError("the version is not HTTP/1.1")
	}
	f, err := parseFields(lines, &q.Fields)
	if err != nil {
		return err
	}
	if f.chunked && (f.lengths > 0 || q.Old) {
		return SyntaxError("Transfer-Encoding with Content-Length or in HTTP/1.0")
	}
	if q.Length = f.length; f.chunked {
		q.Length = Chunked
	}
	if f.hosts > 1 || f.hosts == 0 && !q.Old || !validHost(f.host) {
		return SyntaxError("no Host, more than one or a bad one")
	}
	q.Host = f.host
	q.Close = q.Close || f.close
	switch {
	case f.expect == "":
	case !strings.EqualFold(f.expect, "100-continue"):
		return SyntaxError("unknown expectation")
	default:
		q.Expect = !q.Old && q.Length != 0
	}
	return nil
}

// Get returns the value of the first field of a name, "" when there is none.
func (q *Request) Get(name string) string {
	for _, f := range q.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Response is the head of an answer.
type Response struct {
	Status int
	Fields []Field
	Length int64 // of its body: 0 when there is none, Chunked or UntilClose
	Close  bool  // the connection is of no further use
}

// Parse reads a head, as Reader.Head returns it, of an answer to any request
// but HEAD, in place of what p was.
func (p *Response) Parse(head string) error {
	*p = Response{Fields: p.Fields[:0]}
	line, lines, _ := strings.Cut(head, "\r\n")
	old := strings.HasPrefix(line, "HTTP/1.0 ")
	if !old && !strings.HasPrefix(line, "HTTP/1.1 ") {
		return SyntaxError("an answer that is not HTTP/1.1")
	}
	status, reason, _ := strings.Cut(line[len("HTTP/1.x "):], " ")
	n, err := strconv.ParseUint(status, 10, 16)
	if err != nil || len(status) != 3 || n < 100 || !validValue(reason) {
		return SyntaxError("bad status")
	}
	p.Status = int(n)
	f, err := parseFields(lines, &p.Fields)
	if err != nil {
		return err
	}
	p.Close = old || f.close
	switch {
	case f.chunked && (f.lengths > 0 || old):
		return SyntaxError("Transfer-Encoding with Content-Length or in HTTP/1.0")
	case p.Status < 200 || p.Status == http.StatusNoContent:
		if f.chunked || f.length > 0 {
			return SyntaxError("a body where there can be none")
		}
	case p.Status == http.StatusNotModified:
	case f.chunked:
		p.Length = Chunked
	case f.lengths > 0:
		p.Length = f.length
	default:
		p.Length, p.Close = UntilClose, true
	}
	return nil
}

// framing is what a head's fields say about the message itself.
type framing struct {
	hosts, lengths int
	host, expect   string
	length         int64
	chunked, close bool
}

// parseFields reads the lines of a head, each with its end.
func parseFields(lines string, fields *[]Field) (f framing, err error) {
	for len(lines) > 0 {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		field, err := parseField(line)
		if err != nil {
			return f, err
		}
		if len(*fields) == MaxFields {
			return f, ErrHeadTooLarge
		}
		*fields = append(*fields, field)
		switch field.Name {
		case "content-length":
			if f.length, err = strconv.ParseInt(field.Value, 10, 64); err != nil || f.lengths > 0 || field.Value[0] == '+' || field.Value[0] == '-' {
				return f, SyntaxError("a bad Content-Length, or more than one")
			}
			f.lengths++
		case "transfer-encoding":
			if f.chunked || !strings.EqualFold(field.Value, "chunked") {
				return f, SyntaxError("a Transfer-Encoding other than chunked")
			}
			f.chunked = true
		case "host":
			f.host = field.Value
			f.hosts++
		case "connection":
			f.close = f.close || Listed(field.Value, "close")
		case "expect":
			if f.expect != "" {
				return f, SyntaxError("more than one Expect")
			}
			f.expect = field.Value
		}
	}
	return f, nil
}

func parseField(line string) (Field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !token(name) {
		return Field{}, SyntaxError("a bad field name")
	}
	value = strings.Trim(value, " \t")
	if !validValue(value) {
		return Field{}, SyntaxError("a control character in a field")
	}
	return Field{name, value}, nil
}

// Listed tells whether an element is in a list such as Connection's.
func Listed(list, want string) bool {
	for element := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.Trim(element, " \t"), want) {
			return true
		}
	}
	return false
}

// tokenChars are the characters of names and methods (RFC 9110 §5.6.2).
var tokenChars = func() (set [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" {
		set[c] = true
	}
	return set
}()

func token(s string) bool {
	for i := range len(s) {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return s != ""
}

// visible tells whether a request target has neither spaces nor controls.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}

// validValue allows what is no control character, and tabs.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validHost allows the characters of a host and a port (RFC 3986 §3.2.2).
func validHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9':
		case strings.IndexByte("!$%&'()*+,-.:;=[]_~", c) < 0:
			return false
		}
	}
	return true
}
