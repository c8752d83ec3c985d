//go:build unix

package pgserver

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/xi2/xz"
)

// The binaries are those of zonky's embedded-postgres, 15 MB from Maven
// Central: initdb, pg_ctl and postgres with what they load. The version and
// the archives are pinned, so a mirror cannot hand us anything else.
const fetchVersion = "18.3.0"

var fetchSums = map[string]string{
	"linux-amd64":        "1974c3a59c3ae010e9818e81637e425aad94eaac26e4ef533b42e081fe7ca345",
	"linux-arm64v8":      "1fb555a6602c13a113ab1f0cc9224d599948e85e51ac5f001393605505eaf78e",
	"linux-amd64-alpine": "510fd314da39f1eeccef774a92428474168fedf55403342548e2adeaed66b483",
	"darwin-amd64":       "cb68c57232945f5e74db946e6077d70cec56bfed35959b21acc750cc80ca0977",
	"darwin-arm64v8":     "a18ec9ec6a905e04f5a08a8f7870bddadd635feb54dee332a3daf80fada3cb1a",
}

const (
	mavenCentral = "https://repo1.maven.org/maven2"
	fetchTimeout = 5 * time.Minute // all of it
	stallTimeout = 30 * time.Second
	maxArchive   = 100 << 20
)

func platform() string {
	name := runtime.GOOS + "-" + runtime.GOARCH
	if runtime.GOARCH == "arm64" {
		name += "v8"
	}
	if _, err := os.Stat("/etc/alpine-release"); err == nil {
		name += "-alpine"
	}
	return name
}

// fetch returns the downloaded PostgreSQL, downloading it when it is not there
// yet. Processes that want it at once download it once.
func (f Finder) fetch(ctx context.Context) (Binaries, error) {
	cache := f.cache
	if cache == "" {
		var err error
		if cache, err = CacheDir(f.Identity); err != nil {
			return Binaries{}, err
		}
	}
	target := filepath.Join(cache, "postgres-"+fetchVersion+"-"+platform())
	if b, err := f.check(ctx, filepath.Join(target, "bin")); err == nil {
		return b, nil
	}
	unlock, err := Lock(ctx, target+".lock")
	if err != nil {
		return Binaries{}, err
	}
	defer unlock()
	if b, err := f.check(ctx, filepath.Join(target, "bin")); err == nil {
		return b, nil // while we waited, somebody else did it
	}
	started := time.Now()
	archive, err := f.load(ctx)
	if err != nil {
		return Binaries{}, err
	}
	if err := install(archive, target); err != nil {
		return Binaries{}, fmt.Errorf("unpack into %s: %w%s", cache, err, diskHint(err))
	}
	b, err := f.check(ctx, filepath.Join(target, "bin"))
	if err != nil {
		return Binaries{}, fmt.Errorf("the downloaded one does not run here: %w", err)
	}
	b.Download = time.Since(started)
	f.progress("PostgreSQL %s downloaded in %.1fs, kept in %s", b.Version, b.Download.Seconds(), target)
	return b, nil
}

func (f Finder) progress(format string, args ...any) {
	if f.Progress != nil {
		f.Progress(fmt.Sprintf(format, args...))
	}
}

// load returns the archive, checked against its pinned sum.
func (f Finder) load(ctx context.Context) ([]byte, error) {
	name := platform()
	sum, ok := fetchSums[name]
	if !ok {
		return nil, fmt.Errorf("there is no build for %s", name)
	}
	artifact := "embedded-postgres-binaries-" + name
	mirror := strings.TrimSuffix(cmp.Or(f.Getenv("TIFFIN_POSTGRES_MIRROR"), mavenCentral), "/")
	if u, err := url.Parse(mirror); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("TIFFIN_POSTGRES_MIRROR=%s must be a Maven repository such as %s", mirror, mavenCentral)
	}
	jar := fmt.Sprintf("%s/io/zonky/test/postgres/%s/%s/%s-%s.jar", mirror, artifact, fetchVersion, artifact, fetchVersion)
	f.progress("downloading PostgreSQL %s (15 MB, once) from %s", fetchVersion, mirror)

	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, errors.New("not done in 5 minutes"))
	defer cancel()
	body, err := get(ctx, jar, f.progress)
	if err != nil {
		return nil, explainFetch(err, mirror)
	}
	if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%s is not the expected archive (its SHA-256 is %x, not %s): a proxy or mirror changed it", jar, got, sum)
	}
	return body, nil
}

// get reads url, telling progress each 4 MB, and gives up when nothing arrives for a while.
func get(ctx context.Context, url string, progress func(string, ...any)) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() { cancel(fmt.Errorf("nothing received for %s", stallTimeout)) })
	defer stall.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	var buf bytes.Buffer
	for step := int64(4 << 20); ; {
		n, err := io.CopyN(&buf, resp.Body, 64<<10)
		stall.Reset(stallTimeout)
		if errors.Is(err, io.EOF) {
			return buf.Bytes(), nil
		}
		if err != nil {
			return nil, cmp.Or(context.Cause(ctx), err)
		}
		if buf.Len() > maxArchive {
			return nil, fmt.Errorf("%s is larger than %d MB", url, maxArchive>>20)
		}
		if n > 0 && int64(buf.Len()) >= step && resp.ContentLength > 0 {
			progress("downloading PostgreSQL: %d of %d MB", step>>20, resp.ContentLength>>20)
			step += 4 << 20
		}
	}
}

// explainFetch names the cause of a failed download and what to do.
func explainFetch(err error, mirror string) error {
	var dns *net.DNSError
	var authority x509.UnknownAuthorityError
	switch {
	case errors.As(err, &dns):
		return fmt.Errorf("%w (DNS: no network, or the name is only known to a proxy: set HTTPS_PROXY)", err)
	case errors.As(err, &authority):
		return fmt.Errorf("%w (CA: a proxy presents its own certificate: let SSL_CERT_FILE name its CA)", err)
	case strings.Contains(err.Error(), "proxyconnect") || strings.Contains(err.Error(), "407"):
		return fmt.Errorf("%w (proxy: HTTPS_PROXY does not let us through)", err)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w (%s cannot be reached: a firewall? set HTTPS_PROXY or TIFFIN_POSTGRES_MIRROR)", err, mirror)
	}
	return err
}

// install unpacks the archive beside target and renames it, so that target is
// complete or not there.
func install(archive []byte, target string) error {
	jar, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return err
	}
	for _, file := range jar.File {
		if !strings.HasSuffix(file.Name, ".txz") {
			continue
		}
		inner, err := file.Open()
		if err != nil {
			return err
		}
		defer func() { _ = inner.Close() }()
		temp, err := os.MkdirTemp(filepath.Dir(target), filepath.Base(target)+".part-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(temp) }()
		if err := os.Chmod(temp, 0o755); err != nil { //nolint:gosec // entered by another user
			return err
		}
		plain, err := xz.NewReader(inner, 0)
		if err != nil {
			return err
		}
		if err := unpack(plain, temp); err != nil {
			return err
		}
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		return os.Rename(temp, target)
	}
	return errors.New("no .txz inside")
}

// unpack writes a tar's files into dir and nowhere else.
func unpack(from io.Reader, dir string) error {
	// A root refuses names and links that lead out of it.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for files := tar.NewReader(from); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if name == "." {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = writeFile(root, name, files, 0o644|h.FileInfo().Mode().Perm()&0o111)
		}
		if err != nil {
			return err
		}
	}
}

func writeFile(root *os.Root, name string, from io.Reader, mode os.FileMode) error {
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, from); err != nil {
		_ = out.Close()
		return err
	}
	// The umask may have taken what the other user needs.
	if err := out.Chmod(mode); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

func diskHint(err error) string {
	if errors.Is(err, syscall.ENOSPC) {
		return " (the disk is full: 80 MB are needed)"
	}
	return ""
}
