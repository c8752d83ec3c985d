// Package env reads settings from environment variables and reports every
// problem at once.
//
// Any variable X may be given as a file instead: X_FILE names a file whose
// content, less one trailing newline, is the value. That is how secrets are
// mounted by Docker and Kubernetes.
package env

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reader reads variables and collects what is wrong with them.
type Reader struct {
	getenv   func(string) string
	problems []error
}

// New returns a Reader over getenv, usually os.Getenv.
func New(getenv func(string) string) *Reader { return &Reader{getenv: getenv} }

// Err returns all problems, one per line, or nil.
func (r *Reader) Err() error { return errors.Join(r.problems...) }

// Fail records a problem that a caller found with name's value.
func (r *Reader) Fail(name, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
}

// maxFile bounds what X_FILE may hold, so that a wrong path (a device, a log)
// fails instead of filling memory.
const maxFile = 64 << 10

func (r *Reader) lookup(name string) string {
	path := r.getenv(name + "_FILE")
	v := r.getenv(name)
	if path == "" {
		return v
	}
	if v != "" {
		r.Fail(name, "set it or %s_FILE, not both", name)
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		r.Fail(name+"_FILE", "cannot read it: %v", err)
		return ""
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		r.Fail(name+"_FILE", "%s is not a regular file of at most %d bytes", path, maxFile)
		return ""
	}
	b, err := os.ReadFile(path)
	if err != nil {
		r.Fail(name+"_FILE", "cannot read it: %v", err)
		return ""
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
}

// String returns the value, or def when it is unset or empty.
func (r *Reader) String(name, def string) string {
	if v := r.lookup(name); v != "" {
		return v
	}
	return def
}

// Secret returns the value, "" when unset. It exists apart from String so that
// a reader of the code sees what must never be logged.
func (r *Reader) Secret(name string) string { return r.lookup(name) }

// Int returns a whole number from lowest to highest.
func (r *Reader) Int(name string, def, lowest, highest int) int {
	v := r.lookup(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < lowest || n > highest {
		r.Fail(name, "%q must be a whole number from %d to %d", v, lowest, highest)
		return def
	}
	return n
}

// Bool returns true or false.
func (r *Reader) Bool(name string, def bool) bool {
	v := r.lookup(name)
	if v == "" {
		return def
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.Fail(name, "%q must be true or false", v)
		return def
	}
	return b
}

// Duration returns a duration such as 1m30s from lowest to highest.
func (r *Reader) Duration(name string, def, lowest, highest time.Duration) time.Duration {
	v := r.lookup(name)
	if v == "" {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < lowest || d > highest {
		r.Fail(name, "%q must be a duration such as 30s or 5m, from %s to %s", v, lowest, highest)
		return def
	}
	return d
}

// Durations returns a comma-separated list of positive durations.
func (r *Reader) Durations(name string, def []time.Duration) []time.Duration {
	parts := r.List(name)
	if len(parts) == 0 {
		return def
	}
	list := make([]time.Duration, 0, len(parts))
	for _, p := range parts {
		d, err := time.ParseDuration(p)
		if err != nil || d <= 0 {
			r.Fail(name, "%q must be a positive duration such as 5s", p)
			return def
		}
		list = append(list, d)
	}
	return list
}

// List returns comma-separated values without surrounding spaces, or def.
func (r *Reader) List(name string, def ...string) []string {
	v := r.lookup(name)
	if v == "" {
		return def
	}
	var list []string
	for part := range strings.SplitSeq(v, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	if len(list) == 0 {
		r.Fail(name, "%q holds no value", v)
		return def
	}
	return list
}

// OneOf returns one of the allowed values.
func (r *Reader) OneOf(name, def string, allowed ...string) string {
	v := r.String(name, def)
	if !slices.Contains(allowed, v) {
		r.Fail(name, "%q must be one of %s", v, strings.Join(allowed, ", "))
		return def
	}
	return v
}

// Addr returns an address to listen on, such as :5000 or 127.0.0.1:0.
func (r *Reader) Addr(name, def string) string {
	v := r.String(name, def)
	if _, port, err := net.SplitHostPort(v); err != nil || !validPort(port) {
		r.Fail(name, "%q must be an address to listen on, such as :5000 or 127.0.0.1:5000", v)
		return def
	}
	return v
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n <= 65535
}

// URLs returns comma-separated http or https addresses without path slash.
func (r *Reader) URLs(name string, def ...string) []*url.URL {
	parts := r.List(name, def...)
	list := make([]*url.URL, 0, len(parts))
	for _, p := range parts {
		u, err := url.Parse(p)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
			if err == nil {
				p = u.Redacted() // a password does not belong there, nor into the message
			}
			r.Fail(name, "%q must be an address such as http://localhost:5001", p)
			continue
		}
		u.Path = strings.TrimSuffix(u.Path, "/")
		list = append(list, u)
	}
	return list
}

// URL returns one http or https address.
func (r *Reader) URL(name, def string) *url.URL {
	list := r.URLs(name, def)
	switch {
	case len(list) == 1:
		return list[0]
	case len(list) > 1:
		r.Fail(name, "must be one address")
	}
	return &url.URL{}
}
