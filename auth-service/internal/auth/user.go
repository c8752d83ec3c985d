// Package auth owns users, their passwords and sessions, and the keys that sign
// access tokens. It is the only package that knows auth_db.
package auth

import (
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/tiffin-platform/tiffin/pkg/authn"
	"github.com/tiffin-platform/tiffin/pkg/errs"
)

// User is an account.
type User struct {
	ID        uuid.UUID
	Email     string // as it was written at registration
	Name      string
	Role      authn.Role
	CreatedAt time.Time
}

// Session is one login that lives on through refreshes.
type Session struct {
	ID         uuid.UUID
	CreatedAt  time.Time
	LastUsedAt time.Time
	UserAgent  string
	IP         string
}

// Tokens is what a client holds: the access token to show, the refresh token
// to get the next pair with, once.
type Tokens struct {
	Access, Refresh           string
	AccessExpires, RefreshTTL time.Duration
}

// Client is where a request came from.
type Client struct {
	IP        netip.Addr
	UserAgent string
}

// NewUser is what somebody who registers says about himself.
type NewUser struct {
	Email, Password, Name string
}

const (
	maxEmail    = 254 // RFC 5321 §4.5.3.1.3, less the angle brackets
	maxName     = 100
	minPassword = 8
	maxPassword = 128
	maxAgent    = 256
)

// check returns u as it is stored, or what is wrong with it.
func (u NewUser) check() (NewUser, error) {
	var bad []errs.Field
	if problem := emailProblem(u.Email); problem != "" {
		bad = append(bad, errs.Field{Pointer: "/email", Detail: problem})
	}
	if problem := passwordProblem(u.Password, u.Email); problem != "" {
		bad = append(bad, errs.Field{Pointer: "/password", Detail: problem})
	}
	u.Name = strings.TrimSpace(u.Name)
	if n := utf8.RuneCountInString(u.Name); n < 1 || n > maxName {
		bad = append(bad, errs.Field{Pointer: "/name", Detail: "must be from 1 to 100 characters"})
	} else if strings.ContainsFunc(u.Name, unicode.IsControl) {
		bad = append(bad, errs.Field{Pointer: "/name", Detail: "must not contain control characters"})
	}
	if bad != nil {
		return u, errs.BadFields(errs.Invalid, bad...)
	}
	return u, nil
}

// emailKey is how addresses compare: in any case.
func emailKey(email string) string { return strings.ToLower(email) }

func passwordProblem(password, email string) string {
	switch n := utf8.RuneCountInString(password); {
	case n < minPassword || n > maxPassword:
		return "must be from 8 to 128 characters"
	case emailKey(password) == emailKey(email):
		return "must not be the e-mail address"
	}
	return ""
}

// emailProblem checks the syntax of an address: dot-atom@domain of RFC 5321, in
// ASCII. Quoted local parts and address literals are legal there and nobody's.
func emailProblem(email string) string {
	if email == "" || len(email) > maxEmail {
		return "must be from 1 to 254 characters"
	}
	local, domain, ok := strings.Cut(email, "@")
	if !ok || len(local) > 64 || !dotted(local, atomByte) || !dotted(domain, hostByte) {
		return "must be an e-mail address such as ann@example.com"
	}
	for label := range strings.SplitSeq(domain, ".") {
		if len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "must be an e-mail address such as ann@example.com"
		}
	}
	return ""
}

// dotted tells whether s is a list of non-empty parts of legal bytes.
func dotted(s string, legal func(byte) bool) bool {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" {
			return false
		}
		for i := range len(part) {
			if !legal(part[i]) {
				return false
			}
		}
	}
	return true
}

func hostByte(c byte) bool {
	return c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func atomByte(c byte) bool { return hostByte(c) || strings.IndexByte("!#$%&'*+/=?^_`{|}~", c) >= 0 }

// checkRole returns the role that a client named.
func checkRole(role string) (authn.Role, error) {
	switch r := authn.Role(role); r {
	case authn.Customer, authn.Admin:
		return r, nil
	}
	return "", errs.BadFields(errs.Invalid, errs.Field{Pointer: "/role", Detail: "must be Customer or Admin"})
}

// agent returns a user agent as the database can hold it: HTTP lets clients
// send any bytes over 0x7f, PostgreSQL takes valid UTF-8 only.
func (c Client) agent() string {
	s := strings.ToValidUTF8(strings.ReplaceAll(c.UserAgent, "\x00", ""), "?")
	if utf8.RuneCountInString(s) > maxAgent {
		s = string([]rune(s)[:maxAgent])
	}
	return s
}

func (c Client) ip() string {
	if !c.IP.IsValid() {
		return ""
	}
	return c.IP.String()
}
