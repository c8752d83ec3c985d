//go:build unix

// Package kafkaserver runs a real Apache Kafka from its jars, without Docker and
// without the tarball: one node or several, each broker and controller in one
// process.
package kafkaserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tiffin-platform/tiffin/pkg/pgserver"
)

// Version of Apache Kafka that is run.
const Version = "4.4.0"

const minJava = 17

// Install is what is needed to run it.
type Install struct {
	Java string
	// Classpath lists the jars one by one: the class archive is good for
	// exactly this list in this order.
	Classpath string
	// Archive holds parsed classes (AppCDS), which halves the start; "" without.
	Archive string
	// Download is how long the one-time download took.
	Download time.Duration
}

// A binding for slf4j has to be named, else Kafka's log vanishes.
const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tiffin</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`

// Find returns Apache Kafka, downloading its jars (43 MB) with Maven the first
// time and training the class archive once per JDK.
func Find(ctx context.Context, progress func(string)) (Install, error) {
	java, build, err := findJava(ctx)
	if err != nil {
		return Install{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = filepath.Join(os.TempDir(), "tiffin-cache-"+strconv.Itoa(os.Getuid()))
	}
	dir := filepath.Join(cache, "tiffin", "kafka-"+Version)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Install{}, err
	}
	unlock, err := pgserver.Lock(ctx, dir+".lock")
	if err != nil {
		return Install{}, err
	}
	defer unlock()

	in := Install{Java: java}
	began := time.Now()
	if jars, _ := filepath.Glob(filepath.Join(dir, "*.jar")); len(jars) == 0 {
		if err := fetch(ctx, dir, progress); err != nil {
			return Install{}, err
		}
		in.Download = time.Since(began)
		progress(fmt.Sprintf("Apache Kafka %s downloaded in %.1fs, kept in %s", Version, in.Download.Seconds(), dir))
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil || len(jars) == 0 {
		return Install{}, fmt.Errorf("no jars in %s", dir)
	}
	slices.Sort(jars)
	in.Classpath = strings.Join(jars, string(os.PathListSeparator))

	archive := filepath.Join(dir, "classes-"+build+".jsa")
	if _, err := os.Stat(archive); err != nil {
		progress("training Apache Kafka's class archive, once")
		if err := train(ctx, in, archive); err != nil {
			if ctx.Err() != nil {
				return Install{}, ctx.Err()
			}
			progress("without a class archive Kafka starts slower: " + err.Error())
			return in, nil
		}
	}
	in.Archive = archive
	return in, nil
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// findJava returns the java to use and a name for exactly this build of it.
func findJava(ctx context.Context) (path, build string, err error) {
	path = filepath.Join(os.Getenv("JAVA_HOME"), "bin", "java")
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("java"); err != nil {
			return "", "", fmt.Errorf("KAFKA=real needs Java %d or newer on PATH or in JAVA_HOME (apt-get install default-jre-headless): %w", minJava, err)
		}
	}
	out, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("%s -version: %w\n%s", path, err, out)
	}
	m := javaVersion.FindSubmatch(out)
	if m == nil {
		return "", "", fmt.Errorf("%s -version says %q", path, out)
	}
	if major, _ := strconv.Atoi(string(m[1])); major < minJava {
		return "", "", fmt.Errorf("%s is Java %d, Apache Kafka %s needs %d or newer: set JAVA_HOME", path, major, Version, minJava)
	}
	sum := sha256.Sum256(append(out, path...))
	return path, hex.EncodeToString(sum[:6]), nil
}

func fetch(ctx context.Context, dir string, progress func(string)) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("KAFKA=real needs Maven once, to download Apache Kafka's jars (apt-get install maven): %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".part-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := os.WriteFile(filepath.Join(temp, "pom.xml"), []byte(pom), 0o600); err != nil {
		return err
	}
	progress(fmt.Sprintf("downloading Apache Kafka %s (43 MB, once) with Maven", Version))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, mvn, "-q", "-B", "-f", filepath.Join(temp, "pom.xml"),
		"org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory="+filepath.Join(temp, "libs"))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("download Apache Kafka with Maven: %w (a proxy or mirror goes into ~/.m2/settings.xml)\n%s", err, tail(out.String()))
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(filepath.Join(temp, "libs"), dir)
}

// train runs a broker once and lets the JVM write down the classes it loaded.
func train(ctx context.Context, in Install, archive string) error {
	temp, err := os.MkdirTemp("", "tiffin-kafka-train-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }()
	made := filepath.Join(temp, "classes.jsa")
	ports, err := FreePorts(2)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s := Server{Install: in, Dir: filepath.Join(temp, "data"), Port: ports[0], ControllerPort: ports[1]}
	var out bytes.Buffer
	p, err := s.start(ctx, &out, "-XX:ArchiveClassesAtExit="+made)
	if err != nil {
		return err
	}
	err = s.WaitReady(ctx)
	p.Stop(sigTerm, 30*time.Second)
	if err != nil {
		return errors.Join(err, errors.New(tail(out.String())))
	}
	return moveFile(made, archive)
}

func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
