//go:build buildkit_0_13

package frontend

import (
	parsed "github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// instructions reads each instruction, and expands it, alone.
func instructions(result *parser.Result) {
	_, _, _ = parsed.Parse(result.AST)
	lex := shell.NewLex(result.EscapeToken)
	for _, node := range result.AST.Children {
		_, _ = parsed.ParseInstruction(node)
		_, _ = lex.ProcessWordWithMap(node.Original, map[string]string{"a": "bcd", "A": ""})
		_, _ = lex.ProcessWords(node.Original, []string{"a=b c d", "A="})
	}
}
