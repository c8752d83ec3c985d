package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
)

// explain adds to a client's error what to do about it. An error it does not
// know is returned as it is.
func explain(err error) error {
	if fix := fixFor(err); fix != "" {
		return fmt.Errorf("%w: %s", err, fix)
	}
	return err
}

func fixFor(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return "the broker refuses this user or password: correct KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return "the broker does not offer this mechanism: correct KAFKA_SASL_MECHANISM"
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed), errors.Is(err, kerr.GroupAuthorizationFailed):
		return "the user lacks a right: let it create, describe, read and write the topics and read the group"
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return "fewer brokers are up than replicas are wanted: wait, or lower KAFKA_TOPIC_REPLICATION"
	case errors.As(err, &dns):
		return "the host name is not known: correct it in KAFKA_BROKERS, or start the broker's container"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start Kafka (make run, or docker compose up) or correct KAFKA_BROKERS"
	case errors.Is(err, io.EOF):
		return "the broker hangs up: does the port want TLS or authentication (KAFKA_TLS, KAFKA_SASL_MECHANISM), is KAFKA_SASL_PASSWORD right?"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time: is the address right, does the port want TLS or authentication (KAFKA_TLS, KAFKA_SASL_MECHANISM)?"
	}
	return ""
}
