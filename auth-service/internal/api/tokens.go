package api

import (
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/auth-service/internal/auth"
	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/httpx"
)

type tokensBody struct {
	AccessToken      string `json:"access_token"`
	TokenType        string `json:"token_type"`
	ExpiresIn        int64  `json:"expires_in"` // seconds, as below
	RefreshToken     string `json:"refresh_token"`
	RefreshExpiresIn int64  `json:"refresh_expires_in"`
}

func writeTokens(w http.ResponseWriter, t auth.Tokens) error {
	return httpx.WriteJSON(w, http.StatusOK, tokensBody{
		t.Access, "Bearer", int64(t.AccessExpires / time.Second), t.Refresh, int64(t.RefreshTTL / time.Second),
	})
}

func (a *api) login(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.ReadJSON[struct {
		Email    string `json:"email"`
		Password string `json:"password"`
	}](w, r)
	if err != nil {
		return err
	}
	t, err := a.auth.Login(r.Context(), body.Email, body.Password, a.client(r))
	if err != nil {
		return err
	}
	return writeTokens(w, t)
}

type refreshBody struct {
	RefreshToken string `json:"refresh_token"`
}

func (a *api) refresh(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.ReadJSON[refreshBody](w, r)
	if err != nil {
		return err
	}
	t, err := a.auth.Refresh(r.Context(), body.RefreshToken, a.client(r))
	if err != nil {
		return err
	}
	return writeTokens(w, t)
}

func (a *api) logout(w http.ResponseWriter, r *http.Request) error {
	body, err := httpx.ReadJSON[refreshBody](w, r)
	if err != nil {
		return err
	}
	if err := a.auth.Logout(r.Context(), body.RefreshToken, a.client(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type sessionBody struct {
	ID         uuid.UUID `json:"id"`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at"`
	UserAgent  string    `json:"user_agent"`
	IP         string    `json:"ip"`
	Current    bool      `json:"current"`
}

func (a *api) sessions(w http.ResponseWriter, r *http.Request) error {
	page, err := httpx.ReadPage(r)
	if err != nil {
		return err
	}
	before, err := page.BeforeID()
	if err != nil {
		return err
	}
	p := authn.From(r.Context())
	sessions, err := a.auth.Sessions(r.Context(), p.UserID, before, page.Limit+1)
	if err != nil {
		return err
	}
	items := make([]sessionBody, len(sessions))
	for i, s := range sessions {
		items[i] = sessionBody{s.ID, s.CreatedAt.UTC(), s.LastUsedAt.UTC(), s.UserAgent, s.IP, s.ID == p.SessionID}
	}
	return httpx.WriteJSON(w, http.StatusOK, httpx.NewList(items, page.Limit, func(s sessionBody) string { return s.ID.String() }))
}

func (a *api) endSession(w http.ResponseWriter, r *http.Request) error {
	id, err := httpx.PathID(r, "id")
	if err != nil {
		return err
	}
	if err := httpx.NoBody(r); err != nil {
		return err
	}
	if err := a.auth.EndSession(r.Context(), authn.From(r.Context()).UserID, id, a.client(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) jwks(w http.ResponseWriter, _ *http.Request) error {
	set, err := a.keys.JWKS()
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(auth.JWKSMaxAge.Seconds())))
	return httpx.WriteJSON(w, http.StatusOK, set)
}
