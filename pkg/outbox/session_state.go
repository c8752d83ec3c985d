package outbox

// Broken reports whether the connection of a running transaction is lost: then
// an error of a handler says nothing about the handler.
func (s *Session) Broken() bool {
	return s.tx.conn != nil && s.tx.conn.Conn().IsClosed()
}
