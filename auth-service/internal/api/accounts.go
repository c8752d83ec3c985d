package api

import (
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

type userBody struct {
	ID        uuid.UUID  `json:"id"`
	Email     string     `json:"email"`
	Name      string     `json:"name"`
	Role      authn.Role `json:"role"`
	CreatedAt time.Time  `json:"created_at"`
}

func bodyOf(u auth.User) userBody {
	return userBody{u.ID, u.Email, u.Name, u.Role, u.CreatedAt.UTC()}
}

func (a *api) register(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.ReadJSON[struct {
		Email    string `json:"email"`
		Password string `json:"password"`
		Name     string `json:"name"`
	}](w, r)
	if err != nil {
		return err
	}
	u, err := a.auth.Register(r.Context(), auth.NewUser(body), a.client(r))
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusCreated, bodyOf(u))
}

func (a *api) me(w http.ResponseWriter, r *http.Request) error {
	u, err := a.auth.User(r.Context(), authn.From(r.Context()).UserID)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, bodyOf(u))
}

func (a *api) password(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.ReadJSON[struct {
		Current string `json:"current_password"`
		New     string `json:"new_password"`
	}](w, r)
	if err != nil {
		return err
	}
	p := authn.From(r.Context())
	if err := a.auth.ChangePassword(r.Context(), p.UserID, p.SessionID, body.Current, body.New, a.client(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) users(w http.ResponseWriter, r *http.Request) error {
	page, err := httpx.ReadPage(r)
	if err != nil {
		return err
	}
	before, err := page.BeforeID()
	if err != nil {
		return err
	}
	users, err := a.auth.Users(r.Context(), r.URL.Query().Get("email"), before, page.Limit+1)
	if err != nil {
		return err
	}
	items := make([]userBody, len(users))
	for i, u := range users {
		items[i] = bodyOf(u)
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.NewList(items, page.Limit, func(u userBody) string { return u.ID.String() }))
}

func (a *api) setRole(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	body, err := httpx.ReadJSON[struct {
		Role string `json:"role"`
	}](w, r)
	if err != nil {
		return err
	}
	u, err := a.auth.SetRole(r.Context(), authn.From(r.Context()).UserID, id, body.Role, a.client(r))
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, bodyOf(u))
}
