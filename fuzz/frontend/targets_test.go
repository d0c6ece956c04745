package frontend

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/builder"
)

// seeds are the files of seeds/: a Dockerfile each, with the records of an image behind a line of `%image`, and
// those of the options behind `%options`.
func seeds(f *testing.F) (seeds []seed) {
	paths, err := filepath.Glob("seeds/*")
	if err != nil || len(paths) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, parts(string(text)))
	}
	return seeds
}

// BuildKit's lexer writes to standard error what it does not like; a fuzzer's log would be full of it. What Go
// itself says of a process that dies goes to the same file without this variable.
func init() {
	if nowhere, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0); err == nil {
		os.Stderr = nowhere
	}
}

// try runs an input. A find does not stop the fuzzer: it is kept, and the run goes on to what is new.
func try(target string, input Input) {
	if input.size() > inputBytesMax || input.isCircle() || stagesGoRound(input.Dockerfile) {
		return
	}
	if find := guarded(target, input, func() { targets[target](clone(input)) }); find != nil {
		keep(target, input, *find)
	}
}

func FuzzBuild(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add([]byte(seed.dockerfile), []byte(seed.image), []byte(seed.options), []byte("a\n!b\n"))
	}
	f.Fuzz(func(_ *testing.T, dockerfile, image, options, ignore []byte) {
		try("build", raw(dockerfile, image, options, ignore))
	})
}

func FuzzTokens(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(tokens(&dockerfileTokens, seed.dockerfile), tokens(&imageTokens, "\x00"+seed.image), tokens(&optionTokens, "\x00"+seed.options))
	}
	f.Fuzz(func(_ *testing.T, dockerfile, image, options []byte) {
		try("build", spelled(dockerfile, image, options))
	})
}

func FuzzLint(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(tokens(&dockerfileTokens, seed.dockerfile), tokens(&imageTokens, "\x00"+seed.image))
	}
	f.Fuzz(func(_ *testing.T, dockerfile, image []byte) {
		try("lint", spelled(dockerfile, image, nil))
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add([]byte(seed.dockerfile))
	}
	f.Fuzz(func(_ *testing.T, dockerfile []byte) {
		try("parse", Input{Dockerfile: dockerfile})
	})
}

func FuzzIgnore(f *testing.F) {
	for _, text := range []string{"", "# a\n*\n!a/b\n", "**/*.go\n[a-z]?\\*\n/a/../b/\n", "\ufeff!\n!!a\n[\n", ".\n..\n \n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(_ *testing.T, text []byte) {
		try("ignore", Input{Ignore: text})
	})
}

// TestKnown shows that each input of known/ still does what it is kept for.
func TestKnown(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(knownDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			target, input, signature, err := read(dir)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(signature, "without end") {
				t.Logf("%s: not tried, since it would not end", signature)
				return
			}
			find := guarded(target, input, func() { targets[target](clone(input)) })
			if find == nil {
				t.Fatalf("does no harm, and should be: %s", signature)
			}
			if find.Signature != signature {
				t.Fatalf("%s\ninstead of: %s\n%s", find.Signature, signature, find.Detail)
			}
		})
	}
}

// TestSeeds shows that no seed does harm that is not known.
func TestSeeds(t *testing.T) {
	paths, err := filepath.Glob("seeds/*")
	if err != nil {
		t.Fatal(err)
	}
	trace := newTrace()
	defer trace.end()
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		seed := parts(string(text))
		input := raw([]byte(seed.dockerfile), []byte(seed.image), []byte(seed.options), nil)
		trace.next(input)
		for target := range targets {
			if find := guarded(target, input, func() { targets[target](clone(input)) }); find != nil && !known()[find.Signature] {
				t.Errorf("%s, %s: %s\n%s", path, target, find.Signature, find.Detail)
				keep(target, input, *find)
			}
		}
	}
}

// TestInput says what the input in the directory FUZZ_INPUT costs: `Dockerfile`, `image.json`, `options.json`.
func TestInput(t *testing.T) {
	dir := os.Getenv("FUZZ_INPUT")
	if dir == "" {
		t.Skip("FUZZ_INPUT is not set")
	}
	_, input, _, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	begin := processor()
	find := guarded("build", input, func() {
		if _, err := builder.Build(t.Context(), engine{input: input}); err != nil {
			t.Log(err)
		}
	})
	t.Logf("%s of processor time, a heap of %d MiB", processor()-begin, running.heap>>20)
	if find != nil {
		t.Fatalf("%s\n%s", find.Signature, find.Detail)
	}
}
