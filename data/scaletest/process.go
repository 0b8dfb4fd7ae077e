package scaletest

import (
	"bufio"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// Serves is the variable that makes a test's process one that serves a folder: see Start.
const Serves = "FEWSTEP_SCALE_SERVES"

// Rows is how many samples FEWSTEP_SCALE asks a test for; usual where it is not set.
func Rows(usual int) int {
	if n, _ := strconv.Atoi(os.Getenv("FEWSTEP_SCALE")); n > 0 {
		return n
	}
	return usual
}

// Start serves a folder from a process of its own, which runs the test of this name, and sets the environment for clients.
// That test calls Child.
func Start(t *testing.T, test, dir string) {
	t.Helper()
	server := exec.Command(os.Args[0], "-test.run", "^"+test+"$")
	server.Env = append(os.Environ(), Serves+"="+dir)
	stop, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop.Close(); server.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://"+strings.TrimSpace(strings.TrimPrefix(line, "serves ")))
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_NO_SIGN_REQUEST", "true")
}

// Child serves, where the process was started for that.
func Child(t *testing.T) {
	t.Helper()
	dir := os.Getenv(Serves)
	if dir == "" {
		t.Skip("a part of another test")
	}
	if err := Serve(dir, os.Stdout, os.Stdin); err != nil {
		t.Fatal(err)
	}
}

// Resident is the process's memory now, without mapped files, and at most, with them, in MiB.
func Resident(t *testing.T) (now, most int) {
	t.Helper()
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			most, _ = strconv.Atoi(f[1])
		} else if len(f) > 1 && f[0] == "RssAnon:" {
			now, _ = strconv.Atoi(f[1])
		}
	}
	return now >> 10, most >> 10
}
