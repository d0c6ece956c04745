//go:build !buildkit_0_13

package frontend

import (
	"context"

	parsed "github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/frontend/gateway/client"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// StatFile is what the frontend asks before it reads, from 0.34 on.
func (c content) StatFile(_ context.Context, request client.StatRequest) (*fstypes.Stat, error) {
	data, err := c.file(request.Path)
	if err != nil {
		return nil, err
	}
	return &fstypes.Stat{Path: request.Path, Mode: 0o644, Size: int64(len(data))}, nil
}

// stagesGoRound is for BuildKit before 0.14: newer ones remember the stages where they have been.
func stagesGoRound([]byte) bool { return false }

// instructions reads each instruction, and expands it, alone.
func instructions(result *parser.Result) {
	_, _, _ = parsed.Parse(result.AST, nil)
	_, _ = linter.ParseLintOptions(result.AST.Dump())
	lex := shell.NewLex(result.EscapeToken)
	env := shell.EnvsFromSlice([]string{"a=b c d", "A="})
	for _, node := range result.AST.Children {
		_, _ = parsed.ParseInstruction(node)
		_, _ = lex.ProcessWordWithMatches(node.Original, env)
		_, _ = lex.ProcessWords(node.Original, env)
	}
}
