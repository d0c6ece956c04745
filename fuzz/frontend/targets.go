package frontend

import (
	"bytes"
	"context"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Each target by its name: what it does with an input.
var targets = map[string]func(Input){"build": build, "lint": lint, "parse": parse, "ignore": ignore}

// build is what dockerd, or the frontend's container, does for a build of wharfd's.
func build(input Input) {
	_, _ = builder.Build(context.Background(), engine{input: input})
}

// lint is what the frontend tells of a Dockerfile without building it; wharfd asks for nothing of the kind. It is
// without `frontend.outline`, which recurses without end if a trigger copies from the stage that it is in (0.33, 0.34).
func lint(input Input) {
	if input.Options == nil {
		input.Options = make(map[string]string)
	}
	for _, request := range []string{"frontend.lint", "frontend.targets"} {
		input.Options["requestid"] = request
		build(input)
	}
}

// parse is the parser alone, also of texts that a whole build would refuse before.
func parse(input Input) {
	parser.DetectSyntax(input.Dockerfile)
	result, err := parser.Parse(bytes.NewReader(input.Dockerfile))
	if err == nil {
		result.PrintWarnings(discard{})
		_ = result.AST.Dump()
		instructions(result)
	}
	_, _ = parser.ParseHeredoc(string(input.Dockerfile))
	parser.ChompHeredocContent(string(input.Dockerfile))
}

// ignore reads an ignore file, and asks it for some paths.
func ignore(input Input) {
	patterns, err := ignorefile.ReadAll(bytes.NewReader(input.Ignore))
	if err != nil {
		return
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return
	}
	var info patternmatcher.MatchInfo
	for _, path := range []string{"a", "a/b", "a/b/c.go", ".git", "node_modules/x/y", "\xff", "[a]", "a\nb"} {
		// Nobody asks a matcher again that has failed; it would panic.
		if _, err := matcher.MatchesOrParentMatches(path); err != nil {
			return
		}
		if _, info, err = matcher.MatchesUsingParentResults(path, info); err != nil {
			return
		}
	}
}

type discard struct{}

func (discard) Write(data []byte) (int, error) { return len(data), nil }
