// Package deadletter keeps the records that a consumer gave up on, and lets an
// operator look at them, send them again, discard or export them.
//
// A letter is written by package kafka in the transaction that records the last
// attempt, together with its record for the group's dead-letter topic: it is
// neither lost nor doubled. The table is the truth; the topic is for those who
// watch.
package deadletter
