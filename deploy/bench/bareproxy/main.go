// Command bareproxy is net/http/httputil.ReverseProxy with nothing around it:
// what a proxy in Go costs before it does anything of its own.
package main

import (
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		slog.Error("usage: bareproxy <listen address> <upstream url>")
		os.Exit(2)
	}
	upstream, err := url.Parse(os.Args[2])
	if err != nil {
		slog.Error("upstream", "error", err.Error())
		os.Exit(2)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(upstream) },
		// The default of two idle connections would measure dialling.
		Transport: &http.Transport{MaxIdleConns: 1000, MaxIdleConnsPerHost: 1000, DisableCompression: true},
	}
	server := http.Server{Addr: os.Args[1], Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	slog.Error("bareproxy", "error", server.ListenAndServe().Error())
	os.Exit(1)
}
