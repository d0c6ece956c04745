// Package frontend fuzzes BuildKit's Dockerfile frontend as wharfd calls it: builder.Build, with the attributes
// that wharfd sets, a Dockerfile and an ignore file of a job, and a base image of a registry of the job's choice.
package frontend

import (
	"context"
	"os"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// The base image without anything in its config that matters.
const plainImage = `{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/bin:/bin"]},` +
	`"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}`

// engine answers the frontend as an engine of wharfd's does. Whatever else the frontend asks for is a nil
// pointer's panic, and so a find.
type engine struct {
	client.Client
	input Input
}

// content is a directory of the job's, or a file system that nobody looks into.
type content struct {
	client.Reference
	input Input
}

func (e engine) BuildOpts() client.BuildOpts {
	opts := make(map[string]string, len(e.input.Options))
	for key, value := range e.input.Options {
		opts[key] = value
	}
	opts["cmdline"] = ""
	opts["image-resolve-mode"] = "local"
	opts["build-arg:BUILDKIT_CACHE_MOUNT_NS"] = "0123456789abcdef"
	return client.BuildOpts{
		Opts:      opts,
		SessionID: "session",
		Workers:   []client.WorkerInfo{{ID: "worker", Platforms: []ocispecs.Platform{{OS: "linux", Architecture: "amd64"}}}},
		LLBCaps:   pb.Caps.CapSet(pb.Caps.All()),
		Caps:      gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

func (e engine) Solve(context.Context, client.SolveRequest) (*client.Result, error) {
	result := client.NewResult()
	result.SetRef(content{input: e.input})
	return result, nil
}

func (e engine) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

func (e engine) Warn(context.Context, digest.Digest, string, client.WarnOpts) error { return nil }

func (e engine) image(name string) (digest.Digest, []byte, error) {
	config := e.input.Image
	if len(config) == 0 || !strings.Contains(name, "base") {
		config = []byte(plainImage)
	}
	if strings.Contains(name, "missing") {
		return "", nil, errors.Errorf("%s: not found", name)
	}
	return digest.FromBytes(config), config, nil
}

func (e engine) ResolveImageConfig(_ context.Context, name string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	dgst, config, err := e.image(name)
	return name, dgst, config, err
}

func (e engine) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, _ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	name, ok := strings.CutPrefix(op.Identifier, "docker-image://")
	if !ok {
		return nil, errors.Errorf("%s: denied by policy", op.Identifier)
	}
	dgst, config, err := e.image(name)
	if err != nil {
		return nil, err
	}
	image := &sourceresolver.ResolveImageResponse{Digest: dgst, Config: config}
	return &sourceresolver.MetaResponse{Op: op, Image: image}, nil
}

func (c content) file(name string) ([]byte, error) {
	if name == "Dockerfile" {
		return c.input.Dockerfile, nil
	}
	if len(c.input.Ignore) == 0 || name != ".dockerignore" {
		return nil, errors.WithStack(os.ErrNotExist)
	}
	return c.input.Ignore, nil
}

func (c content) ReadFile(_ context.Context, request client.ReadRequest) ([]byte, error) {
	data, err := c.file(request.Filename)
	if err != nil {
		return nil, err
	}
	if r := request.Range; r != nil {
		data = data[min(r.Offset, len(data)):]
		data = data[:min(r.Length, len(data))]
	}
	return data, nil
}

func (c content) Evaluate(context.Context) error { return nil }
