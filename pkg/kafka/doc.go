// Package kafka consumes events with effects that happen exactly once, and makes
// the clients and topics that a service needs. Events are published through
// package outbox, never from here.
//
// # Consuming
//
// A [Subscription] says what a group does with the events of one topic. [On] is
// for handlers that only write to the database; [OnPrepared] for those that call
// the outside world first. A [Consumer] runs the subscriptions of a service:
//
//	kafka.On(1, event.TypePaymentCompleted, func(ctx context.Context, tx *outbox.Tx, e event.Event, p event.PaymentCompleted) error {
//		tx.Queue(`update orders set status = 'confirmed' where id = $1 and status = 'pending'`, p.OrderID)
//		tx.Emit(ctx, event.New("order-service", event.OrderStatusChanged{OrderID: p.OrderID, To: "confirmed"}))
//		return nil
//	})
//
// What a handler writes and emits is committed together with the note that the
// event was handled, so it happens once, however often the event is delivered.
// The number is the consumer's name in that note: choose another for each
// subscription of a service, and never change what it means.
//
// A handler runs in a transaction with others, and may be run again before any
// of it is committed. So Apply does nothing but use tx. Calls to the outside go
// into Prepare, which is called at least once for each attempt: make it
// idempotent where the other side allows it, with e.ID as the key. What Apply has
// to read can be read for all events of a transaction at once, by Load.
//
// # Order
//
// Events of one key in one topic are handled in the order of the topic, also
// when one of them has to be retried: those behind it wait, other keys do not.
// Nothing is promised across topics. A record without a key has no order. A
// letter that is redriven comes after what was handled meanwhile.
//
// # What an error means
//
//	what came back                                what follows
//	nil                                           committed
//	Permanent(err), undecodable data,             dead letter at once
//	  SQLSTATE 22xxx and 23xxx
//	any other error, a panic, a deadline of       retried after each of RETRY_DELAYS, then dead letter
//	  the handler, SQLSTATE 23505, 23503, 23P01
//	deadlock, serialization failure, lock timeout run again soon, not counted
//	own database away, full, read-only            consuming stops until it answers, not counted
//	shutdown, rebalance                           left to the next member, not counted
//
// Errors of Prepare are about the outside world: they are permanent or counted.
//
// # What a record can end as
//
// Every record ends as one of these, and an offset is committed only past
// records that did: processed; duplicate; parked behind its key; retried, by a
// record for <group>.retry.1 to .3; dead, as a row of msg.dead_letters and a
// record for the dead-letter topic. Dead at once, besides the errors above, are
// records that no handler may see:
//
//	undecodable   no UUID in ce_id, ce_specversion not 1.0, no ce_type, data that does not decode, no data
//	unknown_type  ce_type is not the topic's
//	expired       made longer ago than PROCESSED_RETENTION: whether it was handled is forgotten
//	unroutable    in a retry topic, of a topic that the group does not consume
//	oversize      failed, and too large for the headers of a retry
//
// Retries and dead letters carry the record's bytes and headers as they came,
// and x- headers about what happened (package inbox names them). They are
// written through the outbox in the transaction that records the attempt, so
// none is lost or doubled. Retry topics belong to the group alone.
//
// # What happens if something dies
//
//	the process, before COMMIT                    nothing happened; the records are read again
//	the process, between COMMIT and offset commit the records are read again and known
//	the process, during Prepare                   Prepare is called again
//	the connection, while COMMIT is under way     run again; what was committed is known
//	the process, between a head and its followers a sweeper of any replica goes on after 30 s
//	a retry record, lost                          its event is tried from the database after OverdueAfter
//	the partition moves while a batch runs        both may run it, one commits it
//	the topic                                     made again, and read from its start
//
// # Tuning
//
// A partition is one worker, and a transaction holds up to BatchRecords of its
// records; there is no waiting for a batch to fill. Batches of up to 50 records
// share a transaction with those of other partitions that come while the one
// before it runs, for at most 50 ms. Half of the pool's connections are used for
// consuming. Throughput grows with the number of
// records that wait, so more partitions help only until the database is busy:
// 12 are enough for one PostgreSQL. Replicas share partitions; more replicas
// than partitions idle. A process holds at most QueueRecords records or 4 MiB per
// partition, and one fetch of at most 8 MiB per broker.
//
// Adding partitions to a topic moves keys: events of one key may then be in two
// partitions, and their order is lost once.
package kafka
