// Package outbox writes business data and the events about it in one
// transaction, and publishes those events to Kafka.
//
// # Writing
//
// [DB.InTx] is the one way to write. An event emitted in it exists if and only
// if the transaction commits:
//
//	err := db.InTx(ctx, func(tx *outbox.Tx) error {
//		o, err := lockOrder(ctx, tx, id) // select ... for update, first of all
//		if err != nil {
//			return err
//		}
//		tx.Queue(`update orders set status = $2 where id = $1`, id, "confirmed")
//		tx.Emit(ctx, event.New("order-service", o.confirmed()))
//		return nil
//	})
//
// Lock the aggregate's row before you emit. Events of one key keep the order in
// which their writers were serialised, and only that lock serialises them.
//
// [Tx.Queue] defers a statement: it travels with the next Exec, Query or
// QueryRow, or with COMMIT, in the same round trip. A transaction that only
// queues and emits is a single round trip, BEGIN and COMMIT included.
// [Tx.QueueRow] makes the same write of many handlers in a batch one statement.
// [Tx.QueueLockedRow] does so for a write that needs a lock until COMMIT, such as
// one that takes the next number of a series. [Keep] is for rows that were
// locked ahead, and what became of them, within a transaction.
//
// Synchronous commit must stay on for such transactions: with it off, a crash
// of the server could take back a row whose event was already published.
//
// # Driving a transaction by hand
//
// Package kafka runs many handlers in one transaction and has to know which of
// them a failed statement belongs to. [DB.Begin] is for it, and for nobody who
// can use InTx:
//
//	var first pgx.Batch
//	first.Queue(`insert into msg.processed_events ... returning event_id`, ...).Query(func(rows pgx.Rows) error { ... })
//	s, err := db.Begin(ctx, &first)  // begin and first: one round trip; callbacks have run
//	defer s.Rollback()               // does nothing after Commit
//	for i, h := range handlers {
//		s.Own(i)                      // what is queued and emitted from here on belongs to i
//		err := h(ctx, s.Tx(), ...)
//	}
//	s.Tx().AddRecord(outbox.Record{...}) // a retry or a dead letter: any topic, key, headers
//	err = s.Commit(ctx)              // queued statements, records, COMMIT: one round trip; then rings
//
// [DB.Start] does without that round trip: begin and first go along with the first
// statement of s.Tx(), and nothing but that statement is paid for.
//
// A queued statement that fails surfaces as a [*StatementError] with its owner,
// from whichever call sent it. [ErrInDoubt] marks a COMMIT without an answer.
//
// # Publishing
//
// [Relay] publishes the rows, in order of their sequence numbers, from one
// leader per database; every replica runs one and all but the leader wait. See
// its documentation for the algorithm.
package outbox
