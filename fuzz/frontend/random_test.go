package frontend

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// sentence is an input as bytes for the tables of tokens: Dockerfile, image, options.
type sentence [3][]byte

var tables = [3]*[256]string{&dockerfileTokens, &imageTokens, &optionTokens}

// TestRandom mixes the seeds, and what FuzzTokens has found worth keeping, for FUZZ_SECONDS. It does not look at
// what an input reaches, and so tries many times as many as the fuzzer.
func TestRandom(t *testing.T) {
	seconds, err := strconv.Atoi(os.Getenv("FUZZ_SECONDS"))
	if err != nil {
		t.Skip("FUZZ_SECONDS is not set")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("WHARF_FUZZ_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(seed, 0))
	sentences, trace := sentences(t), newTrace()
	defer trace.end()
	try := func(target string, input Input) {
		trace.next(input)
		try(target, input)
	}
	end, count := time.Now().Add(time.Duration(seconds)*time.Second), 0
	// First each short text with a few tokens less, and each token twice: what is empty where nobody thought of it.
	for _, sentence := range sentences {
		text := sentence[0]
		for at := 0; at < len(text) && len(text) < 40 && time.Now().Before(end); at++ {
			for length := 1; length <= 4 && at+length <= len(text); length++ {
				try("build", spelled(slices.Concat(text[:at], text[at+length:]), sentence[1], sentence[2]))
				count++
			}
			try("build", spelled(slices.Concat(text[:at+1], text[at:]), sentence[1], sentence[2]))
		}
	}
	for ; time.Now().Before(end); count++ {
		mixed := sentences[random.IntN(len(sentences))]
		for range 1 + random.IntN(4) {
			at := random.IntN(4) % 3
			mixed[at] = change(random, mixed[at], sentences[random.IntN(len(sentences))][at], len(tables[at]))
		}
		input := spelled(mixed[0], mixed[1], mixed[2])
		if random.IntN(4) == 0 {
			input = asTrigger(input, text(&imageTokens, mixed[1]))
		}
		if random.IntN(8) == 0 {
			try("lint", input)
		} else {
			try("build", input)
		}
	}
	fmt.Printf("execs: %d of %d sentences, seed %d\n", count, len(sentences), seed)
}

// asTrigger makes the Dockerfile's last stage but its FROM a trigger of the base image.
func asTrigger(input Input, config string) Input {
	_, rest, found := strings.Cut(string(input.Dockerfile), "base AS a\n")
	if !found {
		return input
	}
	input.Image = image(append(records([]byte(strings.TrimPrefix(config, "\x00"))), "O"+rest))
	input.Dockerfile = []byte("ARG a=b\nFROM plain AS b\nFROM base AS a\n")
	return input
}

// change replaces, inserts, removes or repeats a few tokens, or takes some from another text.
func change(random *rand.Rand, text, other []byte, size int) []byte {
	at := random.IntN(len(text) + 1)
	end := min(at+random.IntN(6), len(text))
	var new []byte
	switch random.IntN(7) {
	case 0:
	case 6:
		// What costs little once may cost much often.
		for range 1 << random.IntN(7) {
			new = append(new, text[at:end]...)
		}
	case 1, 2:
		for range 1 + random.IntN(3) {
			new = append(new, byte(random.IntN(size)))
		}
	case 3:
		new, end = text[at:end], at
	default:
		if len(other) > 0 {
			from := random.IntN(len(other))
			new = other[from:min(from+1+random.IntN(12), len(other))]
		}
		if random.IntN(2) == 0 {
			end = at
		}
	}
	changed := make([]byte, 0, len(text)+len(new))
	changed = append(append(append(changed, text[:at]...), new...), text[end:]...)
	return changed[:min(len(changed), 400)]
}

// sentences are the seeds, their single lines, and the fuzzer's own corpus.
func sentences(t *testing.T) (sentences []sentence) {
	paths, _ := filepath.Glob("seeds/*")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		seed := parts(string(text))
		image, options := tokens(&imageTokens, "\x00"+seed.image), tokens(&optionTokens, "\x00"+seed.options)
		sentences = append(sentences, sentence{tokens(&dockerfileTokens, seed.dockerfile), image, options})
		// A line alone is quicker, and easier to change.
		for line := range strings.Lines(seed.dockerfile) {
			sentences = append(sentences, sentence{tokens(&dockerfileTokens, "ARG a=b\nFROM base AS a\n"+line), nil, nil})
		}
		for _, record := range records([]byte(seed.image)) {
			sentences = append(sentences, sentence{tokens(&dockerfileTokens, "FROM base\n"), tokens(&imageTokens, "\x00"+record), nil})
		}
	}
	paths, _ = filepath.Glob("corpus/FuzzTokens/*")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		var sentence sentence
		for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n")[1:] {
			quoted := strings.TrimSuffix(strings.TrimPrefix(line, "[]byte("), ")")
			if data, err := strconv.Unquote(quoted); err == nil && i < len(sentence) {
				sentence[i] = []byte(data)
			}
		}
		sentences = append(sentences, sentence)
	}
	return sentences
}
