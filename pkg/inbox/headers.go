package inbox

import "strconv"

// RetryTopic names a group's topic for its nth retry, from 1.
func RetryTopic(group string, n int) string { return group + ".retry." + strconv.Itoa(n) }

// Headers that a record gains on its way through retries to its dead letter.
// Their values are ASCII text; each occurs once, the newest value.
const (
	HeaderRetryCount    = "x-retry-count" // 1 to 3, the number of the retry
	HeaderRetryMax      = "x-retry-max"
	HeaderRetryDue      = "x-retry-due" // RFC 3339
	HeaderFirstFailedAt = "x-first-failed-at"
	HeaderOrigTopic     = "x-orig-topic" // where the record was first read
	HeaderOrigPartition = "x-orig-partition"
	HeaderOrigOffset    = "x-orig-offset"
	HeaderOrigTimestamp = "x-orig-timestamp"
	HeaderGroup         = "x-consumer-group"
	HeaderErrorClass    = "x-error-class"
	HeaderErrorType     = "x-error-type"
	HeaderErrorMessage  = "x-error-message"
	HeaderLetterID      = "x-dlq-id"
	HeaderDeadAt        = "x-dlq-at"
	HeaderRedriveCount  = "x-redrive-count"
)

var own = map[string]bool{
	HeaderRetryCount: true, HeaderRetryMax: true, HeaderRetryDue: true, HeaderFirstFailedAt: true,
	HeaderOrigTopic: true, HeaderOrigPartition: true, HeaderOrigOffset: true, HeaderOrigTimestamp: true,
	HeaderGroup: true, HeaderErrorClass: true, HeaderErrorType: true, HeaderErrorMessage: true,
	HeaderLetterID: true, HeaderDeadAt: true, HeaderRedriveCount: true,
}

// IsOwn reports whether a header of that name is one of these, and so replaced
// on the way, never handed on.
func IsOwn(name string) bool { return own[name] }
