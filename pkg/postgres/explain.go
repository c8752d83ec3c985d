package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Explain adds to a driver's error what to do about it. An error it does not
// know is returned as it is.
func Explain(err error) error {
	if fix := fixFor(err); fix != "" {
		return fmt.Errorf("%w: %s", err, fix)
	}
	return err
}

var errTooOld = errors.New("PostgreSQL is too old")

func fixFor(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "28P01", "28000":
			return "the server refuses this user or password: correct DATABASE_URL, or the role's password on the server"
		case "3D000":
			return "the database does not exist: create it (create database ... owner ...) or correct its name in DATABASE_URL"
		case "42501":
			return "the user lacks a right: make it the owner of the database, or grant create on the database and on schema public"
		case "53100":
			return "the database server's disk is full: free space there, it goes on by itself"
		case "53300":
			return "the server has no connection left: raise its max_connections or lower DATABASE_MAX_CONNS"
		case "57P03":
			return "the server is starting or stopping: wait"
		case "25006":
			return "the server is a read-only replica: let DATABASE_URL point at the primary"
		case "55P03":
			return "another session holds a lock for too long: look in pg_locks, it is tried again"
		}
		return ""
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "the host name is not known: correct it in DATABASE_URL, or start the database's container"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start PostgreSQL (make run, or docker compose up) or correct DATABASE_URL"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time: is the host right, a firewall between, the server overloaded?"
	case strings.Contains(err.Error(), "server refused TLS connection"):
		return "the server speaks no TLS: add ?sslmode=disable to DATABASE_URL, or turn TLS on there"
	}
	return ""
}

// passing reports whether err may end without a new release of the service:
// the server is away, busy, full, misconfigured or not yet upgraded. A
// migration that the server understands and refuses does not pass.
func passing(err error) bool {
	var connect *pgconn.ConnectError
	var netErr net.Error
	if errors.As(err, &connect) || errors.As(err, &netErr) || errors.Is(err, errTooOld) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		// A connection that broke under us surfaces as several plain errors.
		return strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "bad connection")
	}
	switch pg.Code[:2] {
	case "08", "28", "3D", "53", "57":
		return true
	}
	switch pg.Code {
	case "25006", "42501", "55P03", "40001", "40P01":
		return true
	}
	return false
}
