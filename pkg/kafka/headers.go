package kafka

import (
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

const (
	maxMessage = 4 << 10 // of an error, in a header
	maxType    = 256
)

// failure is one failed attempt at an item.
type failure struct {
	err   error
	class class
	at    time.Time
}

// failureHeaders returns the item's headers with ours replaced: the producer's
// bytes as they came, in their order, then at most 8 KB about what happened.
func (c *Consumer) failureHeaders(it *item, f failure) []kgo.RecordHeader {
	own := []kgo.RecordHeader{
		text(inbox.HeaderRetryMax, strconv.Itoa(Retries)),
		text(inbox.HeaderFirstFailedAt, stamp(it.firstFailed)),
		text(inbox.HeaderOrigTopic, it.origin.topic),
		text(inbox.HeaderOrigPartition, strconv.Itoa(int(it.origin.partition))),
		text(inbox.HeaderOrigOffset, strconv.FormatInt(it.origin.offset, 10)),
		text(inbox.HeaderOrigTimestamp, stamp(it.origin.at)),
		text(inbox.HeaderGroup, c.cc.Group),
		text(inbox.HeaderErrorClass, f.class.String()),
		text(inbox.HeaderErrorType, ascii(typeOf(f.err), maxType)),
		text(inbox.HeaderErrorMessage, ascii(f.err.Error(), maxMessage)),
		text(inbox.HeaderRedriveCount, strconv.Itoa(it.redrives())),
	}
	all := make([]kgo.RecordHeader, 0, len(it.headers)+len(own)+2)
	for _, h := range it.headers {
		if !inbox.IsOwn(h.Key) {
			all = append(all, h)
		}
	}
	return append(all, own...)
}

func text(key, value string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: key, Value: []byte(value)}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ascii makes s fit for a header: printable ASCII of at most limit bytes.
func ascii(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
