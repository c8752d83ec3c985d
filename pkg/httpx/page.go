package httpx

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

const (
	defaultLimit = 20
	maxLimit     = 100
	maxCursor    = 512
)

// Page is what a list request asks for. Before is the position where the
// previous page ended, "" for the first page; clients see it only encoded.
type Page struct {
	Limit  int
	Before string
}

// ReadPage reads ?limit= and ?cursor=.
func ReadPage(r *http.Request) (Page, error) {
	p := Page{Limit: defaultLimit}
	q := r.URL.Query()
	if q.Has("limit") {
		n, err := strconv.Atoi(q.Get("limit"))
		if err != nil || n < 1 || n > maxLimit {
			return p, errs.New(errs.Malformed, "limit must be a whole number from 1 to %d", maxLimit)
		}
		p.Limit = n
	}
	if c := q.Get("cursor"); c != "" {
		b, err := base64.RawURLEncoding.Strict().DecodeString(c)
		if err != nil || len(c) > maxCursor || len(b) == 0 {
			return p, BadCursor()
		}
		p.Before = string(b)
	}
	return p, nil
}

// BeforeID returns the cursor as an id, uuid.Nil for the first page.
func (p Page) BeforeID() (uuid.UUID, error) {
	if p.Before == "" {
		return uuid.Nil, nil
	}
	id, err := parseID(p.Before)
	if err != nil {
		return uuid.Nil, BadCursor()
	}
	return id, nil
}

// BeforeSeq returns the cursor as a positive sequence number, 0 for the first page.
func (p Page) BeforeSeq() (int64, error) {
	if p.Before == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(p.Before, 10, 64)
	if err != nil || n < 1 {
		return 0, BadCursor()
	}
	return n, nil
}

// BadCursor is the answer to a cursor that no list of ours gave out.
func BadCursor() error {
	return errs.New(errs.Malformed, "cursor must be a next_cursor of the previous page")
}

// List is a page of a list.
type List[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// NewList makes a page of items, which were fetched with limit+1 so that one
// too many shows that another page follows. cursor gives an item's position.
func NewList[T any](items []T, limit int, cursor func(T) string) List[T] {
	l := List[T]{Items: items}
	if len(items) > limit {
		l.Items = items[:limit]
		l.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(cursor(items[limit-1])))
	}
	if l.Items == nil {
		l.Items = []T{}
	}
	return l
}

// PathID returns the id in the path; what is no UUID names nothing, so it is
// not found.
func PathID(r *http.Request, name string) (uuid.UUID, error) {
	id, err := parseID(chi.URLParam(r, name))
	if err != nil {
		return uuid.Nil, errs.New(errs.NotFound, "there is nothing with this id")
	}
	return id, nil
}

// QueryID returns the id in the query, and whether there is one.
func QueryID(r *http.Request, name string) (uuid.UUID, bool, error) {
	q := r.URL.Query()
	if !q.Has(name) {
		return uuid.Nil, false, nil
	}
	id, err := parseID(q.Get(name))
	if err != nil {
		return uuid.Nil, false, errs.New(errs.Malformed, "%s must be a UUID", name)
	}
	return id, true, nil
}

// parseID takes the canonical form only (RFC 9562 §4), in either case: the
// library also accepts urn:uuid: and braces.
func parseID(s string) (uuid.UUID, error) {
	if len(s) != 36 || strings.IndexByte(s, '{') >= 0 {
		return uuid.Nil, errs.New(errs.Malformed, "not a UUID")
	}
	return uuid.Parse(s)
}
