//go:build buildkit_0_13

package frontend

import (
	"bytes"
	"strconv"
	"strings"

	parsed "github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// stagesGoRound tells a Dockerfile with stages that the frontend follows without end, or in very many ways, and that
// wharfd refuses (src/build/dockerfile/stages.rs): Go does not survive the end of a stack.
func stagesGoRound(text []byte) bool {
	result, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return false
	}
	stages, _, err := parsed.Parse(result.AST)
	if err != nil {
		return false
	}
	names := make(map[string]int)
	for number, stage := range stages {
		if stage.Name != "" {
			names[strings.ToLower(stage.Name)] = number
		}
	}
	needed := make([][]int, len(stages))
	for number, stage := range stages {
		if strings.ContainsAny(stage.BaseName, "$\"'\\`") {
			for earlier := range number {
				needed[number] = append(needed[number], earlier)
			}
		}
		sources := []string{stage.BaseName}
		for _, command := range stage.Commands {
			switch command := command.(type) {
			case *parsed.CopyCommand:
				sources = append(sources, command.From)
			case *parsed.RunCommand:
				for _, mount := range parsed.GetMounts(command) {
					sources = append(sources, mount.From)
				}
			}
		}
		for at, source := range sources {
			if stage, ok := names[strings.ToLower(source)]; ok && (at > 0 || stage < number) {
				needed[number] = append(needed[number], stage)
			} else if index, err := strconv.Atoi(source); at > 0 && err == nil && 0 <= index && index < len(stages) {
				needed[number] = append(needed[number], index)
			}
		}
	}
	left := 1_000_000
	var follow func(stage, depth int) bool
	follow = func(stage, depth int) bool {
		if left--; left < 0 || depth > len(stages) {
			return true
		}
		for _, next := range needed[stage] {
			if follow(next, depth+1) {
				return true
			}
		}
		return false
	}
	for stage := range stages {
		if follow(stage, 0) {
			return true
		}
	}
	return false
}

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
