package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Store lists and changes a group's letters.
type Store struct {
	db    *outbox.DB
	group string
}

// NewStore returns the letters in db. group is the consumer group whose retry
// topic a redrive goes to.
func NewStore(db *outbox.DB, group string) *Store { return &Store{db: db, group: group} }

// ErrNotFound says that there is no such letter.
var ErrNotFound = errors.New("no such dead letter")

const columns = `id, consumer, event_id, type, topic, partition, "offset", key, value, headers,
	error_class, error, attempts, redrives, status, first_failed_at, dead_at, updated_at`

func scan(row pgx.CollectableRow) (Letter, error) {
	var l Letter
	var headers []byte
	var id, eventID [16]byte
	err := row.Scan(&id, &l.Consumer, &eventID, &l.Type, &l.Topic, &l.Partition, &l.Offset, &l.Key, &l.Value, &headers,
		&l.ErrorClass, &l.Error, &l.Attempts, &l.Redrives, &l.Status, &l.FirstFailedAt, &l.DeadAt, &l.UpdatedAt)
	if err != nil {
		return l, err
	}
	l.ID, l.EventID = id, eventID
	l.Headers, err = outbox.DecodeHeaders(headers)
	return l, err
}

// List returns the letters that f selects, the oldest first.
func (s *Store) List(ctx context.Context, f Filter) ([]Letter, error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	where, args := f.where()
	rows, err := s.db.Pool.Query(ctx, `select `+columns+` from msg.dead_letters where `+where+` order by dead_at, id `+limit(f.Limit), args...)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return letters, nil
}

func limit(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("limit %d", n)
}

// Change is an entry of a letter's history.
type Change struct {
	At     time.Time `json:"at"`
	Action string    `json:"action"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason,omitzero"`
	Was    Status    `json:"was"`
	Became Status    `json:"became"`
}

// Show returns a letter and what was done to it.
func (s *Store) Show(ctx context.Context, id uuid.UUID) (Letter, []Change, error) {
	letters, err := s.List(ctx, Filter{IDs: []uuid.UUID{id}})
	if err != nil {
		return Letter{}, nil, err
	}
	if len(letters) == 0 {
		return Letter{}, nil, ErrNotFound
	}
	rows, err := s.db.Pool.Query(ctx, `select c.at, o.action, o.actor, o.reason, c.was, c.became
		from msg.dead_letter_changes c join msg.dead_letter_operations o on o.id = c.operation
		where c.dead_letter = $1 order by c.at`, [16]byte(id))
	if err != nil {
		return Letter{}, nil, fmt.Errorf("read history: %w", err)
	}
	history, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Change])
	if err != nil {
		return Letter{}, nil, fmt.Errorf("read history: %w", err)
	}
	return letters[0], history, nil
}

// Command is what an operator wants done to the dead letters that Filter
// selects.
type Command struct {
	Filter Filter
	Actor  string // who; kept with what was done
	Reason string
	DryRun bool // change nothing, only count
	// Rate bounds redrives per second; 0 is as fast as it goes.
	Rate int
	// Progress, if any, is called after each chunk with how many are done.
	Progress func(done int)
}

// chunk is how many letters one transaction changes.
const chunk = 200

// maxRedrives keeps the number of an attempt within a smallint.
const maxRedrives = 2000

// Redrive sends dead letters to the group's first retry topic, with all retries
// before them, and returns how many. Each letter changes its status in the
// transaction that writes its record, so it is sent once for each redrive.
// Letters are sent in the order in which they died; events of their keys that
// came later were handled meanwhile and do not wait for them.
func (s *Store) Redrive(ctx context.Context, cmd Command) (int, error) {
	return s.change(ctx, cmd, "redrive", Redriven, func(tx *outbox.Tx, l Letter) {
		tx.AddRecord(outbox.Record{
			EventID: l.EventID, Topic: inbox.RetryTopic(s.group, 1), Key: l.Key, Value: l.Value,
			Headers: redriveHeaders(l, time.Now()),
		})
	})
}

// Discard marks dead letters as done with; they stay in the table.
func (s *Store) Discard(ctx context.Context, cmd Command) (int, error) {
	return s.change(ctx, cmd, "discard", Discarded, func(*outbox.Tx, Letter) {})
}

func redriveHeaders(l Letter, now time.Time) []kgo.RecordHeader {
	replaced := map[string]string{
		inbox.HeaderRetryCount: "1", inbox.HeaderRetryDue: now.UTC().Format(time.RFC3339Nano),
		inbox.HeaderRedriveCount: fmt.Sprint(l.Redrives),
	}
	headers := make([]kgo.RecordHeader, 0, len(l.Headers)+len(replaced))
	for _, h := range l.Headers {
		if _, own := replaced[h.Key]; !own {
			headers = append(headers, h)
		}
	}
	for _, name := range []string{inbox.HeaderRetryCount, inbox.HeaderRetryDue, inbox.HeaderRedriveCount} {
		headers = append(headers, kgo.RecordHeader{Key: name, Value: []byte(replaced[name])})
	}
	return headers
}

// change moves the selected dead letters to a status, chunk by chunk, and keeps
// a record of who did it.
func (s *Store) change(ctx context.Context, cmd Command, action string, to Status, each func(*outbox.Tx, Letter)) (int, error) {
	cmd.Filter.Status = Dead
	if err := cmd.Filter.validate(); err != nil {
		return 0, err
	}
	if cmd.DryRun {
		return s.matching(ctx, cmd.Filter)
	}
	operation, err := s.begin(ctx, cmd, action)
	if err != nil {
		return 0, err
	}
	done := 0
	for ctx.Err() == nil {
		n := s.nextChunk(cmd, done)
		if n == 0 {
			break
		}
		changed, err := s.changeChunk(ctx, operation, cmd.Filter, n, to, each)
		if err != nil {
			return done, fmt.Errorf("%s: %w", action, err)
		}
		if changed == 0 { // fewer than n may be because one died again just now
			break
		}
		done += changed
		if cmd.Progress != nil {
			cmd.Progress(done)
		}
		if !pace(ctx, cmd.Rate, changed) {
			break
		}
	}
	_, err = s.db.Pool.Exec(context.WithoutCancel(ctx), `update msg.dead_letter_operations set ended = now() where id = $1`, [16]byte(operation))
	if err != nil {
		return done, fmt.Errorf("%s: %w", action, err)
	}
	return done, context.Cause(ctx)
}

func (s *Store) nextChunk(cmd Command, done int) int {
	n := chunk
	if cmd.Rate > 0 {
		n = min(n, cmd.Rate)
	}
	if cmd.Filter.Limit > 0 {
		n = min(n, cmd.Filter.Limit-done)
	}
	return n
}

// pace waits for as long as n letters take at rate.
func pace(ctx context.Context, rate, n int) bool {
	if rate <= 0 {
		return true
	}
	t := time.NewTimer(time.Second * time.Duration(n) / time.Duration(rate))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Store) matching(ctx context.Context, f Filter) (n int, err error) {
	where, args := f.where()
	err = s.db.Pool.QueryRow(ctx, `select count(*) from (select from msg.dead_letters where `+where+` `+limit(f.Limit)+`) l`, args...).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	return n, nil
}

func (s *Store) begin(ctx context.Context, cmd Command, action string) (uuid.UUID, error) {
	if cmd.Actor == "" {
		return uuid.Nil, fmt.Errorf("%s: who does it is not said", action)
	}
	filter, err := json.Marshal(cmd.Filter)
	if err != nil {
		return uuid.Nil, fmt.Errorf("%s: %w", action, err)
	}
	id := uuid.Must(uuid.NewV7())
	_, err = s.db.Pool.Exec(ctx, `insert into msg.dead_letter_operations (id, action, actor, reason, filter) values ($1, $2, $3, $4, $5)`,
		[16]byte(id), action, text(cmd.Actor, 200), text(cmd.Reason, 2000), filter)
	if err != nil {
		return uuid.Nil, fmt.Errorf("%s: %w", action, err)
	}
	return id, nil
}

// changeChunk changes the first n letters, in one transaction with their records
// and their history. Two operators at once get different letters.
func (s *Store) changeChunk(ctx context.Context, operation uuid.UUID, f Filter, n int, to Status, each func(*outbox.Tx, Letter)) (int, error) {
	var letters []Letter
	err := s.db.InTx(ctx, func(tx *outbox.Tx) error {
		where, args := f.where(string(to), n, maxRedrives)
		rows, err := tx.Query(ctx, `with changed as (
				update msg.dead_letters set status = $1::text, updated_at = now(),
					redrives = redrives + case when $1 = 'redriven' then 1 else 0 end
				where ctid = any(array(select ctid from msg.dead_letters
					where redrives < $3 and `+where+` order by dead_at, id limit $2 for update skip locked))
				returning *)
			select `+columns+` from changed order by dead_at, id`, args...)
		if err != nil {
			return err
		}
		if letters, err = pgx.CollectRows(rows, scan); err != nil {
			return err
		}
		ids := make([][16]byte, len(letters))
		for i, l := range letters {
			ids[i] = l.ID
			each(tx, l)
		}
		tx.Queue(`insert into msg.dead_letter_changes (operation, dead_letter, was, became) select $1, id, 'dead', $3 from unnest($2::uuid[]) id`,
			[16]byte(operation), ids, string(to))
		tx.Queue(`update msg.dead_letter_operations set changed = changed + $2 where id = $1`, [16]byte(operation), len(ids))
		return nil
	})
	return len(letters), err
}
