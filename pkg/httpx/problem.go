package httpx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// kinds is the one place where a kind of error becomes a status and a problem
// type (RFC 9457).
var kinds = map[errs.Kind]struct {
	status      int
	slug, title string
}{
	errs.Internal:         {http.StatusInternalServerError, "internal", "Internal error"},
	errs.Malformed:        {http.StatusBadRequest, "malformed", "Malformed request"},
	errs.Unauthenticated:  {http.StatusUnauthorized, "unauthenticated", "Not authenticated"},
	errs.Forbidden:        {http.StatusForbidden, "forbidden", "Not allowed"},
	errs.NotFound:         {http.StatusNotFound, "not_found", "Not found"},
	errs.MethodNotAllowed: {http.StatusMethodNotAllowed, "method_not_allowed", "Method not allowed"},
	errs.Conflict:         {http.StatusConflict, "conflict", "Conflict"},
	errs.TooLarge:         {http.StatusRequestEntityTooLarge, "too_large", "Request body too large"},
	errs.UnsupportedMedia: {http.StatusUnsupportedMediaType, "unsupported_media_type", "Unsupported media type"},
	errs.Invalid:          {http.StatusUnprocessableEntity, "invalid", "Invalid request"},
	errs.RateLimited:      {http.StatusTooManyRequests, "rate_limited", "Too many requests"},
	errs.HeadTooLarge:     {http.StatusRequestHeaderFieldsTooLarge, "head_too_large", "Request head too large"},
	errs.BadGateway:       {http.StatusBadGateway, "upstream", "Bad answer from upstream"},
	errs.Unavailable:      {http.StatusServiceUnavailable, "upstream", "Temporarily unavailable"},
	errs.GatewayTimeout:   {http.StatusGatewayTimeout, "upstream", "Upstream did not answer in time"},
}

type problem struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail,omitempty"`
	Instance  string         `json:"instance"`
	RequestID string         `json:"request_id,omitempty"`
	Errors    []problemField `json:"errors,omitempty"`
}

type problemField struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// StatusClientGone is what the log and the metrics call a request whose client
// left before the answer (nginx's 499); nobody receives it.
const StatusClientGone = 499

// WriteProblem answers with err as application/problem+json.
func WriteProblem(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		info(r.Context()).status = StatusClientGone
		return
	}
	p := NewProblem(err, r.URL.EscapedPath(), RequestID(r.Context()))
	Note(r.Context(), p.Note)
	h := w.Header()
	if p.RetryAfter != "" {
		h.Set("Retry-After", p.RetryAfter)
	}
	h.Set("Content-Type", ProblemType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.Body) // the client may be gone
}

// ProblemType is the media type of a Problem's body.
const ProblemType = "application/problem+json"

// Problem is the answer to an error.
type Problem struct {
	Status     int
	RetryAfter string // a field of the answer unless it is empty
	Body       []byte
	Note       slog.Attr // for the request's log line
}

// NewProblem makes err a problem of a path and a request. An error that is no
// *errs.Error is a bare 500, or a 503 when a database or a network peer did not
// answer; its cause goes to the request's log line only.
func NewProblem(err error, instance, requestID string) Problem {
	e, ok := errors.AsType[*errs.Error](err)
	switch {
	case ok:
	case infrastructure(err):
		e = &errs.Error{Kind: errs.Unavailable, Detail: "a part of the system does not answer; try again", RetryAfter: time.Second}
	default:
		e = &errs.Error{Kind: errs.Internal}
	}
	k := kinds[e.Kind]
	p := Problem{Status: k.status, Note: slog.String("problem", e.Error())}
	if k.status >= 500 {
		p.Note = slog.String("error", err.Error())
	}
	if e.RetryAfter > 0 {
		p.RetryAfter = strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
	}
	doc := problem{
		Type:      "/problems/" + k.slug,
		Title:     k.title,
		Status:    k.status,
		Detail:    e.Detail,
		Instance:  instance,
		RequestID: requestID,
	}
	for _, f := range e.Fields {
		doc.Errors = append(doc.Errors, problemField(f))
	}
	if p.Body, err = encode(doc); err != nil {
		p.Body = nil
	}
	return p
}

// infrastructure tells whether err says that a database or a peer could not be
// reached or had no room, rather than that our code is wrong.
func infrastructure(err error) bool {
	if s, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		switch state := s.SQLState(); {
		case len(state) != 5:
			return false
		case state[:2] == "08", state[:2] == "53", state[:3] == "57P", state == "25006", state == "57014", state == "55P03":
			return true
		}
		return false
	}
	_, network := errors.AsType[net.Error](err)
	// A server that is killed while it answers leaves half an answer.
	return network || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.ErrUnexpectedEOF)
}

// HandlerFunc is a handler that returns what went wrong instead of writing it.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Handle adapts h: a returned error becomes a problem. h must not have written
// an answer when it returns an error.
func Handle(h HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			WriteProblem(w, r, err)
		}
	}
}
