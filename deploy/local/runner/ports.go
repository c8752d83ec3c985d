//go:build unix

package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/proc"
)

// use is a port that a part is going to listen on.
type use struct {
	part string
	port int
}

// checkPorts names every port that somebody already listens on, and who.
func checkPorts(ctx context.Context, uses []use) error {
	var errs []error
	for _, u := range uses {
		if free(ctx, u.port) {
			continue
		}
		who := owner(ctx, u.port)
		if who == "" {
			who = "another program"
		}
		errs = append(errs, fmt.Errorf("port %d, which %s needs, is taken by %s", u.port, u.part, who))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("stop what is in the way, or set TIFFIN_PORT_OFFSET=10000 to move every port"))
	}
	return errors.Join(errs...)
}

// free reports whether nobody listens on the port, on either loopback address:
// a client that says localhost may get either.
func free(ctx context.Context, port int) bool {
	for _, host := range []string{"127.0.0.1", "::1"} {
		addr := net.JoinHostPort(host, strconv.Itoa(port))
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", addr)
		if err == nil {
			_ = l.Close()
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
			return false
		}
	}
	return true
}

// owner returns who listens on the port, "" when it cannot be found out.
func owner(ctx context.Context, port int) string {
	if pid := listener(port); pid != 0 {
		return fmt.Sprintf("process %d (%s)", pid, short(proc.CommandLine(pid)))
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "lsof", "-nP", "-t", "-iTCP:"+strconv.Itoa(port), "-sTCP:LISTEN").Output()
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("process %d (%s)", pid, short(proc.CommandLine(pid)))
}

func short(command string) string {
	const most = 80
	if len(command) > most {
		return command[:most] + "…"
	}
	return command
}

// listener finds the process in /proc: the socket's inode by its port, then who
// holds that inode. 0 when there is no /proc or the process is somebody else's.
func listener(port int) int {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		file, err := os.Open(table)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			f := strings.Fields(lines.Text())
			const listening = "0A"
			if len(f) < 10 || f[3] != listening {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseInt(hex, 16, 32); err == nil && int(n) == port {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
		_ = file.Close()
	}
	if len(inodes) == 0 {
		return 0
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && inodes[target] {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return pid
		}
	}
	return 0
}
