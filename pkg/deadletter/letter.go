package deadletter

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Status of a letter.
type Status string

// A letter is dead until somebody redrives or discards it. A redriven one is
// resolved by the consumer that handles it, or dead again.
const (
	Dead      Status = "dead"
	Redriven  Status = "redriven"
	Resolved  Status = "resolved"
	Discarded Status = "discarded"
)

// Letter is a record that a consumer gave up on.
type Letter struct {
	ID       uuid.UUID
	Consumer int16 // 0: of a retry topic's record that names no topic of the group
	EventID  uuid.UUID
	Type     string

	Topic     string // where the record was first read
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	Headers   []kgo.RecordHeader

	ErrorClass string
	Error      string
	Attempts   int // tries, over all redrives
	Redrives   int
	Status     Status

	FirstFailedAt time.Time
	DeadAt        time.Time
	UpdatedAt     time.Time
}

// IDFor returns the id of consumer's letter about an event. There is one at
// most, however often it is redriven and dies.
func IDFor(consumer int16, eventID uuid.UUID) uuid.UUID {
	return uuid.NewSHA1(eventID, binary.BigEndian.AppendUint16(nil, uint16(consumer)))
}

// DeriveID returns an id for a record that carries none, made of the place that
// it has for ever. at is the record's own time.
func DeriveID(topic string, partition int32, offset int64, at time.Time) uuid.UUID {
	h := sha256.New()
	h.Write([]byte(topic))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32([]byte{0}, uint32(partition)), uint64(offset)))
	var id uuid.UUID
	copy(id[6:], h.Sum(nil))
	// The time comes first, as in a UUIDv7, so that the id grows like the others.
	ms := binary.BigEndian.AppendUint64(nil, uint64(max(0, at.UnixMilli()))<<16)
	copy(id[:6], ms[:6])
	id[6] = id[6]&0x0f | 0x80 // version 8: of our own making
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Add records l as dead, in the transaction that records its last attempt. A
// letter that was redriven and died again keeps its row.
func Add(tx *outbox.Tx, l Letter) {
	tx.Queue(`insert into msg.dead_letters (id, consumer, event_id, type, topic, partition, "offset", key, value, headers,
			error_class, error, attempts, redrives, first_failed_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
		on conflict (id) do update set status = 'dead', headers = excluded.headers,
			error_class = excluded.error_class, error = excluded.error,
			attempts = least(32767, dead_letters.attempts + excluded.attempts),
			redrives = greatest(dead_letters.redrives, excluded.redrives), dead_at = now(), updated_at = now()`,
		[16]byte(l.ID), l.Consumer, [16]byte(l.EventID), text(l.Type, 200), text(l.Topic, 249), l.Partition, l.Offset,
		l.Key, l.Value, outbox.EncodeHeaders(l.Headers),
		l.ErrorClass, text(l.Error, 8<<10), l.Attempts, l.Redrives, l.FirstFailedAt)
}

// Resolve records that a redriven event was handled after all.
func Resolve(tx *outbox.Tx, consumer int16, eventID uuid.UUID) {
	tx.Queue(`update msg.dead_letters set status = 'resolved', updated_at = now() where id = $1 and status = 'redriven'`,
		[16]byte(IDFor(consumer, eventID)))
}

// text makes s storable as text: valid UTF-8 without NUL, of at most limit
// bytes. What a record or an error says may be any bytes.
func text(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
