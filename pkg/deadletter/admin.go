package deadletter

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

// Routes returns the letters for the admin port, to be mounted at /dlq:
//
//	GET  /           list, with the filter as query: status, consumer, type, error_class, key, older_than, newer_than, limit
//	GET  /{id}       one letter and its history
//	GET  /export     the same selection as lines of JSON; actor is required
//	POST /redrive    {filter..., "all": true, "actor": "", "reason": "", "rate": 50, "dry_run": true}
//	POST /discard    the same
func (s *Store) Routes() http.Handler {
	r := chi.NewRouter()
	r.Get("/", httpx.Handle(s.list))
	r.Get("/export", httpx.Handle(s.export))
	r.Get("/{id}", httpx.Handle(s.show))
	r.Post("/redrive", httpx.Handle(s.commandHandler(s.Redrive)))
	r.Post("/discard", httpx.Handle(s.commandHandler(s.Discard)))
	return r
}

const maxListed = 1000

func (s *Store) list(w http.ResponseWriter, r *http.Request) error {
	f, err := queryFilter(r)
	if err != nil {
		return err
	}
	if f.Limit == 0 || f.Limit > maxListed {
		f.Limit = maxListed
	}
	letters, err := s.List(r.Context(), f)
	if err != nil {
		return err
	}
	views := make([]View, len(letters))
	for i, l := range letters {
		views[i] = l.View()
	}
	return httpx.WriteJSON(w, http.StatusOK, map[string]any{"items": views})
}

func (s *Store) show(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	l, history, err := s.Show(r.Context(), id)
	if errors.Is(err, ErrNotFound) {
		return &errs.Error{Kind: errs.NotFound, Detail: "no such dead letter"}
	}
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, shown{l.View(), history})
}

// shown is a letter with its history.
type shown struct {
	View
	History []Change `json:"history"`
}

func (s *Store) export(w http.ResponseWriter, r *http.Request) error {
	f, err := queryFilter(r)
	if err != nil {
		return err
	}
	actor := r.URL.Query().Get("actor")
	if actor == "" {
		return errs.New(errs.Malformed, "say who exports: actor")
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	_, err = s.Export(r.Context(), Command{Filter: f, Actor: actor, Reason: r.URL.Query().Get("reason")}, w)
	return err
}

// request is the body of redrive and discard.
type request struct {
	Filter
	All    bool   `json:"all,omitzero"` // needed when the filter selects everything
	Actor  string `json:"actor"`
	Reason string `json:"reason,omitzero"`
	Rate   int    `json:"rate,omitzero"`
	DryRun bool   `json:"dry_run,omitzero"`
}

func (s *Store) commandHandler(run runFunc) httpx.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		req, err := httpx.ReadJSON[request](w, r)
		if err != nil {
			return err
		}
		if err := req.validate(); err != nil {
			return errs.New(errs.Invalid, "%v", err)
		}
		switch {
		case req.Actor == "" && !req.DryRun:
			return errs.BadFields(errs.Invalid, errs.Field{Pointer: "/actor", Detail: "say who does it"})
		case !req.selects() && !req.All:
			return errs.BadFields(errs.Invalid, errs.Field{Pointer: "/all", Detail: "set it to mean every dead letter, or give a filter"})
		}
		n, err := run(r.Context(), Command{Filter: req.Filter, Actor: req.Actor, Reason: req.Reason, Rate: req.Rate, DryRun: req.DryRun})
		if err != nil {
			return err
		}
		return httpx.WriteJSON(w, http.StatusOK, map[string]any{"count": n, "dry_run": req.DryRun})
	}
}

func queryFilter(r *http.Request) (Filter, error) {
	q := r.URL.Query()
	f := Filter{Status: Status(q.Get("status")), Type: q.Get("type"), Class: q.Get("error_class"), Key: q.Get("key")}
	var problems []error
	number := func(name string, bits int) int64 {
		v := q.Get(name)
		if v == "" {
			return 0
		}
		n, err := strconv.ParseInt(v, 10, bits)
		if err != nil {
			problems = append(problems, errors.New(name+" is no number"))
		}
		return n
	}
	f.Consumer, f.Limit = int16(number("consumer", 16)), int(number("limit", 32))
	for name, age := range map[string]*Age{"older_than": &f.Older, "newer_than": &f.Newer} {
		if v := q.Get(name); v != "" {
			problems = append(problems, age.UnmarshalText([]byte(v)))
		}
	}
	for _, v := range q["id"] {
		id, err := uuid.Parse(v)
		problems = append(problems, err)
		f.IDs = append(f.IDs, id)
	}
	if err := errors.Join(append(problems, f.validate())...); err != nil {
		return f, errs.New(errs.Malformed, "%v", err)
	}
	return f, nil
}
