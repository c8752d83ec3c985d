package deadletter

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Filter selects letters. What is not set selects all.
type Filter struct {
	IDs      []uuid.UUID `json:"ids,omitzero"`
	Status   Status      `json:"status,omitzero"`
	Consumer int16       `json:"consumer,omitzero"`
	Type     string      `json:"type,omitzero"`
	Class    string      `json:"error_class,omitzero"`
	Key      string      `json:"key,omitzero"`
	Older    Age         `json:"older_than,omitzero"` // dead for at least this long
	Newer    Age         `json:"newer_than,omitzero"` // dead for at most this long
	Limit    int         `json:"limit,omitzero"`      // the oldest ones; 0: all
}

// Age is a duration that reads and writes itself as text such as 36h.
type Age time.Duration

// MarshalText writes the duration.
func (a Age) MarshalText() ([]byte, error) { return []byte(time.Duration(a).String()), nil }

// UnmarshalText reads a duration.
func (a *Age) UnmarshalText(b []byte) error {
	d, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is no duration such as 36h", b)
	}
	*a = Age(d)
	return nil
}

// selects reports whether f leaves anything out.
func (f Filter) selects() bool {
	return len(f.IDs) > 0 || f.Consumer != 0 || f.Type != "" || f.Class != "" || f.Key != "" || f.Older != 0 || f.Newer != 0 || f.Limit != 0
}

func (f Filter) validate() error {
	switch f.Status {
	case "", Dead, Redriven, Resolved, Discarded:
	default:
		return fmt.Errorf("status %q is none of %s, %s, %s, %s", f.Status, Dead, Redriven, Resolved, Discarded)
	}
	if f.Older < 0 || f.Newer < 0 || f.Limit < 0 {
		return errors.New("ages and limit must not be negative")
	}
	return nil
}

// where returns f as a condition, with its arguments after the first ones.
func (f Filter) where(args ...any) (string, []any) {
	conditions := []string{"true"}
	add := func(condition string, arg any) {
		args = append(args, arg)
		conditions = append(conditions, fmt.Sprintf(condition, len(args)))
	}
	if len(f.IDs) > 0 {
		ids := make([][16]byte, len(f.IDs))
		for i, id := range f.IDs {
			ids[i] = id
		}
		add("id = any($%d)", ids)
	}
	if f.Status != "" {
		add("status = $%d", string(f.Status))
	}
	if f.Consumer != 0 {
		add("consumer = $%d", f.Consumer)
	}
	if f.Type != "" {
		add("type = $%d", f.Type)
	}
	if f.Class != "" {
		add("error_class = $%d", f.Class)
	}
	if f.Key != "" {
		add("key = $%d", []byte(f.Key))
	}
	if f.Older != 0 {
		add("dead_at <= now() - $%d::interval", time.Duration(f.Older))
	}
	if f.Newer != 0 {
		add("dead_at >= now() - $%d::interval", time.Duration(f.Newer))
	}
	return strings.Join(conditions, " and "), args
}
