package deadletter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// View is a letter as people read it. Bytes that are no text are given in
// base64 only.
type View struct {
	ID            uuid.UUID `json:"id"`
	Status        Status    `json:"status"`
	Consumer      int16     `json:"consumer"`
	EventID       uuid.UUID `json:"event_id"`
	Type          string    `json:"type"`
	Topic         string    `json:"topic"`
	Partition     int32     `json:"partition"`
	Offset        int64     `json:"offset"`
	Key           *string   `json:"key"`
	KeyBytes      []byte    `json:"key_base64,omitempty"`
	Value         *string   `json:"value"`
	ValueBytes    []byte    `json:"value_base64,omitempty"`
	Headers       []header  `json:"headers"`
	ErrorClass    string    `json:"error_class"`
	Error         string    `json:"error"`
	Attempts      int       `json:"attempts"`
	Redrives      int       `json:"redrives"`
	FirstFailedAt time.Time `json:"first_failed_at"`
	DeadAt        time.Time `json:"dead_at"`
	UpdatedAt     time.Time `json:"updated_at"`
}

type header struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
	Bytes []byte  `json:"base64,omitempty"`
}

// View returns l for people.
func (l Letter) View() View {
	v := View{
		ID: l.ID, Status: l.Status, Consumer: l.Consumer, EventID: l.EventID, Type: l.Type,
		Topic: l.Topic, Partition: l.Partition, Offset: l.Offset, Headers: make([]header, len(l.Headers)),
		ErrorClass: l.ErrorClass, Error: l.Error, Attempts: l.Attempts, Redrives: l.Redrives,
		FirstFailedAt: l.FirstFailedAt.UTC(), DeadAt: l.DeadAt.UTC(), UpdatedAt: l.UpdatedAt.UTC(),
	}
	v.Key, v.KeyBytes = readable(l.Key)
	v.Value, v.ValueBytes = readable(l.Value)
	for i, h := range l.Headers {
		v.Headers[i].Key = text(h.Key, 1000)
		v.Headers[i].Value, v.Headers[i].Bytes = readable(h.Value)
	}
	return v
}

func readable(b []byte) (*string, []byte) {
	if b == nil || !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

// Export writes the letters that the command's filter selects to w, one JSON
// object per line, as they are at one moment, and returns how many. It changes
// nothing but the record of who did it.
func (s *Store) Export(ctx context.Context, cmd Command, w io.Writer) (int, error) {
	if err := cmd.Filter.validate(); err != nil {
		return 0, err
	}
	if cmd.DryRun {
		return s.matching(ctx, cmd.Filter)
	}
	operation, err := s.begin(ctx, cmd, "export")
	if err != nil {
		return 0, err
	}
	where, args := cmd.Filter.where()
	rows, err := s.db.Pool.Query(ctx, `select `+columns+` from msg.dead_letters where `+where+` order by dead_at, id `+limit(cmd.Filter.Limit), args...)
	if err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	defer rows.Close()
	n, enc := 0, json.NewEncoder(w)
	for rows.Next() {
		l, err := scan(rows)
		if err != nil {
			return n, fmt.Errorf("export: %w", err)
		}
		if err := enc.Encode(l.View()); err != nil {
			return n, fmt.Errorf("export: %w", err)
		}
		if n++; cmd.Progress != nil && n%chunk == 0 {
			cmd.Progress(n)
		}
	}
	if err := rows.Err(); err != nil {
		return n, fmt.Errorf("export: %w", err)
	}
	_, err = s.db.Pool.Exec(ctx, `update msg.dead_letter_operations set changed = $2, ended = now() where id = $1`, [16]byte(operation), n)
	if err != nil {
		return n, fmt.Errorf("export: %w", err)
	}
	return n, nil
}
