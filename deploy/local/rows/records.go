//go:build unix

package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/local/broker"
)

// Records writes the order's records in all topics, oldest first. It reads
// every topic from its start to where it ends now.
func Records(ctx context.Context, brokers []string, order string, out io.Writer) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer client.Close()
	ping, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := client.Ping(ping); err != nil {
		return fmt.Errorf("broker %s: %w (is the platform running? make run)", strings.Join(brokers, ","), err)
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, broker.Topics()...)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	todo := map[string]map[int32]int64{} // where to stop, per partition that holds something
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err != nil || o.Offset <= 0 {
			return
		}
		if todo[o.Topic] == nil {
			todo[o.Topic], from[o.Topic] = map[int32]int64{}, map[int32]kgo.Offset{}
		}
		todo[o.Topic][o.Partition] = o.Offset
		from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
	})
	records, err := read(ctx, brokers, order, from, todo)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\ntopics")
	if len(records) == 0 {
		_, _ = fmt.Fprintln(out, "  no records")
	}
	slices.SortStableFunc(records, func(a, b *kgo.Record) int { return a.Timestamp.Compare(b.Timestamp) })
	for _, r := range records {
		_, _ = fmt.Fprintf(out, "  %s  %-31s %2d/%-4d ce_id=%s%s\n    %s\n",
			r.Timestamp.UTC().Format("15:04:05.000"), r.Topic, r.Partition, r.Offset, header(r, "ce_id"), attempts(r), r.Value)
	}
	return nil
}

func read(ctx context.Context, brokers []string, order string, from map[string]map[int32]kgo.Offset, todo map[string]map[int32]int64) ([]*kgo.Record, error) {
	if len(todo) == 0 {
		return nil, nil
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumePartitions(from), kgo.FetchMaxWait(200*time.Millisecond),
		kgo.KeepControlRecords()) // a partition may end in one
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	var found []*kgo.Record
	for len(todo) > 0 {
		quiet, cancel := context.WithTimeout(ctx, 5*time.Second)
		fetches := reader.PollFetches(quiet)
		cancel()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(fetches.Err0(), context.DeadlineExceeded) {
			return found, nil // what is missing was deleted by retention
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if string(r.Key) == order && !r.Attrs.IsControl() {
				found = append(found, r)
			}
			if r.Offset+1 >= todo[r.Topic][r.Partition] {
				delete(todo[r.Topic], r.Partition)
				if len(todo[r.Topic]) == 0 {
					delete(todo, r.Topic)
				}
			}
		})
	}
	return found, nil
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

func attempts(r *kgo.Record) string {
	var text strings.Builder
	for _, name := range []string{"x-retry-count", "x-error-message"} {
		if v := header(r, name); v != "" {
			_, _ = fmt.Fprintf(&text, " %s=%s", name, v)
		}
	}
	return text.String()
}
