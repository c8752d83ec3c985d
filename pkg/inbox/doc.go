// Package inbox remembers what a consumer did with each event, in the database
// and in the transaction of the handler: which attempts have an outcome, which
// keys wait for a retry, and the events behind them.
//
// A service does not call it. Package kafka does, for every record:
//
//   - [Begin] claims attempts: of any number of deliveries of one attempt, also
//     in different processes at once, exactly one transaction commits a claim.
//     The claim and the handler's writes are one transaction, so an event has
//     its effects exactly once.
//   - [Begin] also locks the parked keys among the records. While a key is
//     parked, its events are put behind its head with [Follow], so they are
//     handled after it: a retry does not change the order of a key.
//   - [Recent] answers for the last few thousand claims without the database.
//
// Event ids are UUIDv7. They grow with time, so that the index of claims is
// written at its end, and [Prune] removes the oldest as one range.
package inbox
