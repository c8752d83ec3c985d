package deadletter_test

import (
	"context"
	"fmt"
	"os"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
)

// The sub-command "dlq" of a service: service.Main(name, addr, run, cmd).
func ExampleSubCommand() {
	cmd := deadletter.SubCommand("payment-service", "postgres://localhost:5434/payment_db")
	noSettings := func(string) string { return "" }
	fmt.Println(cmd.Name)
	fmt.Println(cmd.Run(context.Background(), []string{"redrive"}, noSettings, os.Stdout))
	// Output:
	// dlq
	// dlq: give ids or a filter, or -all for every dead letter
}
