//go:build unix

package main

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatIsNotUnderstoodStartsNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"nothing":        {nil, nil, usage},
		"unknown":        {[]string{"start"}, nil, usage},
		"unknown flag":   {[]string{"-z", "run"}, nil, usage},
		"extra":          {[]string{"run", "-v", "order-service"}, nil, `unexpected argument "order-service"`},
		"extra id":       {[]string{"rows", "a", "b"}, nil, `unexpected argument "b"`},
		"unknown part":   {[]string{"run"}, map[string]string{"SKIP": "orders"}, `SKIP: there is no part "orders"`},
		"bad order":      {[]string{"rows"}, map[string]string{"ORDER": "42"}, `ORDER="42" is no order id`},
		"several":        {[]string{"run"}, map[string]string{"REPLICAS": "3", "KAFKA": "redpanda"}, "REPLICAS: \"3\" must be a whole number from 1 to 2\nKAFKA:"},
		"neither":        {[]string{"demo"}, map[string]string{"ONCE": "perhaps"}, "ONCE:"},
		"broker of what": {[]string{"broker"}, nil, "usage: local broker"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), c.args, func(name string) string { return c.env[name] }, io.Discard)
			require.ErrorContains(t, err, c.want)
		})
	}
}
