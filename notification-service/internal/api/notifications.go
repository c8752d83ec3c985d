package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/tiffin-platform/tiffin/notification-service/internal/notification"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

func (h handlers) list(w http.ResponseWriter, r *http.Request) error {
	page, err := httpx.ReadPage(r)
	if err != nil {
		return err
	}
	before, err := page.BeforeSeq()
	if err != nil {
		return err
	}
	unread, err := queryBool(r, "unread")
	if err != nil {
		return err
	}
	items, err := h.svc.List(r.Context(), authn.From(r.Context()).UserID, before, unread, page.Limit+1)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.NewList(items, page.Limit, func(n notification.Notification) string {
		return strconv.FormatInt(n.Seq, 10)
	}))
}

func queryBool(r *http.Request, name string) (bool, error) {
	q := r.URL.Query()
	if !q.Has(name) {
		return false, nil
	}
	switch q.Get(name) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errs.New(errs.Malformed, "%s must be true or false", name)
}

func (h handlers) read(w http.ResponseWriter, r *http.Request) error {
	if err := httpx.NoBody(r); err != nil {
		return err
	}
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	if err := h.svc.MarkRead(r.Context(), authn.From(r.Context()).UserID, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// stream sends notifications as they come. It ends with the token that opened
// it: the client reconnects with a new one and resumes.
func (h handlers) stream(w http.ResponseWriter, r *http.Request) error {
	last, err := httpx.LastEventID(r)
	if err != nil {
		return err
	}
	who := authn.From(r.Context())
	wake, stop := h.svc.Wake(who.UserID)
	defer stop()
	var follower *notification.Follower
	if r.Header.Get("Last-Event-ID") != "" { // 0 too: from the very first
		follower, err = h.svc.Resume(r.Context(), who.UserID, last)
	} else {
		follower, err = h.svc.Follow(r.Context(), who.UserID)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(r.Context(), who.Expires)
	defer cancel()
	return httpx.Follow(w, r.WithContext(ctx), wake, func(ctx context.Context, s *httpx.Stream) error {
		for more := true; more; {
			var items []notification.Notification
			if items, more, err = follower.Next(ctx); err != nil {
				return err
			}
			for _, n := range items {
				if err := s.Send(n.Seq, "notification", n); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
