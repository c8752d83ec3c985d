package kafka

// class says what an error means for the record it belongs to.
type class int

const (
	classTransient class = iota
	classPermanent
	classUndecodable
)
