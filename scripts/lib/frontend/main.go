// BuildKit's own Dockerfile frontend, as a program that limits itself. It reads a job's Dockerfile in a
// container that BuildKit starts without limits: a Dockerfile whose arguments double, or that never ends,
// ends this process and not the engine.
package main

import (
	"fmt"
	"os"
	"syscall"

	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/util/appcontext"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto"
)

const (
	// The limit on writable memory; an ordinary Dockerfile takes about 30 MiB.
	memory = 512 << 20
	// The limit on processor time; an ordinary Dockerfile takes a tenth of a second.
	seconds = 30
	// RLIMIT_CPU and RLIMIT_DATA, which package syscall defines only for some platforms.
	limitCPU  = 0
	limitData = 2
)

func bound(resource int, limit uint64) {
	if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	bound(limitCPU, seconds)
	bound(limitData, memory)
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), dockerfile.Build); err != nil {
		fail(err)
	}
}
