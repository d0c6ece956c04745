// BuildKit's own Dockerfile frontend, as a program that limits itself. It reads a job's Dockerfile in a
// container that BuildKit starts without limits: a Dockerfile whose arguments double, or that never ends,
// ends this process and not the engine.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"syscall"

	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/solver/pb"
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
	// BuildKit 0.13 reads messages of at most 4 MiB (newer ones read 16 MiB), some of it for the rest of a request.
	graphMax = 4<<20 - 4<<10
	// The part of a Dockerfile's text that is kept: directives, and the lines that are shown around most failures.
	textKept = 128 << 10
)

// gateway sends graphs to BuildKit. A graph carries the Dockerfile's text, only to show the lines of a failed
// step, and the text of each here-document again: if both are too large for one message, the first goes. wharfd
// does the same (build/gate/definition).
type gateway struct{ client.Client }

func (g gateway) Solve(ctx context.Context, request client.SolveRequest) (*client.Result, error) {
	if graph := request.Definition; graph != nil && graph.Source != nil && graph.SizeVT() > graphMax {
		request.Definition = &pb.Definition{
			Def:      graph.Def,
			Metadata: graph.Metadata,
			Source:   &pb.Source{Locations: graph.Source.Locations, Infos: heads(graph.Source.Infos)},
		}
	}
	return g.Client.Solve(ctx, request)
}

// heads returns the files with the first lines of their texts.
func heads(files []*pb.SourceInfo) []*pb.SourceInfo {
	var kept []*pb.SourceInfo
	for _, file := range files {
		file = file.CloneVT()
		if len(file.Data) > textKept {
			file.Data = file.Data[:bytes.LastIndexByte(file.Data[:textKept], '\n')+1]
		}
		kept = append(kept, file)
	}
	return kept
}

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	return dockerfile.Build(ctx, gateway{c})
}

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
	if err := grpcclient.RunFromEnvironment(appcontext.Context(), build); err != nil {
		fail(err)
	}
}
