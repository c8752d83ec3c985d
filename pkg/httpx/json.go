package httpx

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

const (
	// MaxBody is the largest request body in bytes.
	MaxBody = 1 << 20
	// maxDepth is how deep the objects and arrays of a body may nest.
	maxDepth = 32
)

// WriteJSON answers with v. It returns an error only when v does not encode,
// before anything was written.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
	return nil
}

// encode returns v as one line of JSON with its line end. Text stays as it is:
// no browser takes our answers for HTML (nosniff), and people read them.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := stdjson.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// ReadBody reads a request body of the media type application/json, at most
// MaxBody bytes of it.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if strings.Join(r.Header["Content-Encoding"], "") != "" {
		return nil, errs.New(errs.UnsupportedMedia, "send the body without Content-Encoding")
	}
	if r.ContentLength > MaxBody {
		return nil, errs.New(errs.TooLarge, "the body may hold at most %d bytes", MaxBody)
	}
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" || (params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8")) {
		return nil, errs.New(errs.UnsupportedMedia, "send the body as application/json in UTF-8")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, errs.New(errs.TooLarge, "the body may hold at most %d bytes", MaxBody)
		}
		return nil, &errs.Error{Kind: errs.Malformed, Detail: "the body ended early or came too slowly", Err: err}
	}
	return body, nil
}

// ReadJSON reads the request body into a T, strictly: right media type, size
// and nesting bounded, valid UTF-8, exact names, no unknown or repeated names,
// no trailing data. The error is an *errs.Error that says what is wrong where.
func ReadJSON[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	var v T
	body, err := ReadBody(w, r)
	if err != nil {
		return v, err
	}
	return DecodeJSON[T](body)
}

// DecodeJSON is ReadJSON for a body that was read already.
func DecodeJSON[T any](body []byte) (T, error) {
	var v T
	if len(bytes.TrimSpace(body)) == 0 {
		return v, errs.New(errs.Malformed, "the body is empty; send a JSON object")
	}
	if err := checkSyntax(body); err != nil {
		return v, err
	}
	if bytes.TrimSpace(body)[0] != '{' {
		return v, errs.New(errs.Malformed, "the body must be a JSON object")
	}
	if err := json.Unmarshal(body, &v, json.RejectUnknownMembers(true), json.WithUnmarshalers(json.UnmarshalFunc(unmarshalID))); err != nil {
		return v, malformed(err)
	}
	return v, nil
}

// unmarshalID takes ids in bodies as strictly as parseID takes them in paths.
func unmarshalID(text []byte, id *uuid.UUID) error {
	if string(text) == "null" { // absent, as for every other type
		*id = uuid.Nil
		return nil
	}
	var s string
	err := json.Unmarshal(text, &s)
	if err == nil {
		*id, err = parseID(s)
	}
	return err
}

// checkSyntax walks the tokens first, so that a deep or broken body fails
// before anything is allocated for it.
func checkSyntax(body []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	for {
		_, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return malformed(err)
		}
		if d.StackDepth() > maxDepth {
			return errs.New(errs.Malformed, "the body nests deeper than %d levels", maxDepth)
		}
		if d.StackDepth() == 0 {
			if rest := bytes.TrimSpace(body[d.InputOffset():]); len(rest) > 0 {
				return errs.New(errs.Malformed, "there is data after the JSON value, at byte %d", d.InputOffset())
			}
			return nil
		}
	}
}

func malformed(err error) error {
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		return errs.BadFields(errs.Malformed, errs.Field{Pointer: string(e.JSONPointer), Detail: semantic(e)})
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(e, jsontext.ErrDuplicateName) {
			return errs.BadFields(errs.Malformed, errs.Field{Pointer: string(e.JSONPointer), Detail: "the name stands twice in its object"})
		}
		return errs.New(errs.Malformed, "the body is not valid JSON in UTF-8: %s at byte %d", reason(e.Err), e.ByteOffset)
	}
	return &errs.Error{Kind: errs.Malformed, Detail: "the body is not the JSON that is expected here", Err: err}
}

func reason(err error) string {
	if err == nil {
		return "syntax error"
	}
	return strings.TrimPrefix(err.Error(), "jsontext: ")
}

func semantic(e *json.SemanticError) string {
	if errors.Is(e, json.ErrUnknownName) {
		return "unknown field"
	}
	t := e.GoType
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return "wrong type"
	}
	if t.Name() == "UUID" {
		return "must be a UUID as text"
	}
	switch t.Kind() {
	case reflect.String:
		return "must be a string"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "must be a whole number in range"
	case reflect.Float32, reflect.Float64:
		return "must be a number in range"
	case reflect.Slice:
		return "must be an array"
	case reflect.Struct, reflect.Map:
		return "must be an object"
	}
	return "wrong type"
}

// NoBody refuses a body on a route that takes none.
func NoBody(r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	var one [1]byte
	if n, _ := io.ReadFull(r.Body, one[:]); n > 0 {
		return errs.New(errs.Malformed, "this route takes no body")
	}
	return nil
}
