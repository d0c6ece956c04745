// BuildKit's own Dockerfile frontend, as a program that limits itself. It reads a job's Dockerfile in a
// container that BuildKit starts without limits: a Dockerfile whose arguments double, or that never ends,
// ends this process and not the engine.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/frontend/gateway/grpcclient"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/appcontext"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto"
	"github.com/opencontainers/go-digest"
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
	// The most warnings, each of which BuildKit keeps until the build's end, and longer.
	warningsMax = 100
	// The limit on the texts that all warnings carry; with an ordinary Dockerfile they carry some hundred KiB.
	warnedMax = 1 << 20
	// The limit on a warning's message, which may contain a name or a value of the Dockerfile's.
	messageMax = 4 << 10
	// The lines that wharfd shows before and after those of a warning, and the most bytes of all of these
	// (buildkit/failure).
	linesAround  = 4
	excerptBytes = 32 << 10
)

// gateway sends graphs and warnings to BuildKit.
type gateway struct {
	client.Client
	warned *warned
}

// warned counts the warnings of a build.
type warned struct {
	sync.Mutex
	// How many have been sent, and how many bytes of text with them.
	sent, bytes int
	// How many have been left out, and the step to which the last one belongs.
	omitted int
	step    digest.Digest
}

// Solve sends a graph. It carries the Dockerfile's text, only to show the lines of a failed
// step, and the text of each here-document again: if both are too large for one message, the first goes. wharfd
// does the same (build/gate/definition).
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

// Warn sends a warning with the lines that it is about. BuildKit's own carries the whole text of the Dockerfile, and
// there may be one for each of its words.
func (g gateway) Warn(ctx context.Context, step digest.Digest, message string, options client.WarnOpts) error {
	g.warned.Lock()
	defer g.warned.Unlock()
	if g.warned.sent == warningsMax {
		g.warned.omitted++
		g.warned.step = step
		return nil
	}
	g.warned.sent++
	if len(message) > messageMax {
		message = strings.ToValidUTF8(message[:messageMax], "") + "…"
	}
	options.SourceInfo = excerpt(options.SourceInfo, options.Range)
	size := options.SourceInfo.SizeVT()
	if g.warned.bytes+size > warnedMax {
		// The message contains the number of the line.
		options.SourceInfo, options.Range = nil, nil
	} else {
		g.warned.bytes += size
	}
	return g.Client.Warn(ctx, step, message, options)
}

// end says how many warnings have been left out.
func (g gateway) end(ctx context.Context) {
	g.warned.Lock()
	defer g.warned.Unlock()
	if g.warned.omitted == 0 {
		return
	}
	message := fmt.Sprintf("%d more warnings about the Dockerfile are not shown", g.warned.omitted)
	// A build does not fail because of a warning.
	_ = g.Client.Warn(ctx, g.warned.step, message, client.WarnOpts{Level: 1})
}

// excerpt returns the file with the lines around these ranges alone. The lines before them are empty, so that each
// line keeps its number.
func excerpt(file *pb.SourceInfo, ranges []*pb.Range) *pb.SourceInfo {
	if file == nil || len(ranges) == 0 {
		return nil
	}
	first, last := ranges[0].GetStart().GetLine(), ranges[0].GetEnd().GetLine()
	for _, one := range ranges {
		first = min(first, one.GetStart().GetLine())
		last = max(last, one.GetEnd().GetLine())
	}
	first, last = first-linesAround, max(first, last)+linesAround
	var before, kept []byte
	rest := file.Data
	for number := int32(1); number <= last && len(rest) > 0 && len(kept) < excerptBytes; number++ {
		line := rest
		if end := bytes.IndexByte(rest, '\n'); end >= 0 {
			line = rest[:end+1]
		}
		rest = rest[len(line):]
		if number < first {
			before = append(before, '\n')
		} else {
			kept = append(kept, line[:min(len(line), excerptBytes-len(kept))]...)
		}
	}
	return &pb.SourceInfo{
		Filename:   file.Filename,
		Data:       append(before, kept...),
		Definition: file.Definition,
		Language:   file.Language,
	}
}

func build(ctx context.Context, c client.Client) (*client.Result, error) {
	g := gateway{c, &warned{}}
	result, err := dockerfile.Build(ctx, g)
	g.end(ctx)
	return result, err
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
