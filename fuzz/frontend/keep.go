package frontend

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// The inputs that are known to do harm, each in a directory of its own.
const knownDir = "known"

// How many inputs of one new signature are kept.
const keptMax = 10

var kept struct {
	sync.Mutex
	count map[string]int
	// When the next input of a known signature is kept.
	next map[string]int
}

var known = sync.OnceValue(func() map[string]bool {
	signatures := make(map[string]bool)
	paths, _ := filepath.Glob(filepath.Join(knownDir, "*", "signature"))
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil {
			signatures[strings.TrimSpace(string(text))] = true
		}
	}
	return signatures
})

// keep writes a find: a new one to FOUND/new, and now and then one of a known signature to FOUND/known, so that
// wharfd's judge can be asked whether it refuses those as well.
func keep(target string, input Input, find Find) {
	found := os.Getenv("FUZZ_FOUND")
	if found == "" {
		return
	}
	kept.Lock()
	defer kept.Unlock()
	if kept.count == nil {
		kept.count, kept.next = make(map[string]int), make(map[string]int)
	}
	kept.count[find.Signature]++
	count := kept.count[find.Signature]
	class := "new"
	if known()[find.Signature] {
		class = "known"
		if count < kept.next[find.Signature] {
			return
		}
		kept.next[find.Signature] = count + count/20 + 1
	} else if count > keptMax {
		return
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\x00%s\x00%s\x00%v", input.Dockerfile, input.Image, input.Ignore, input.Options)
	name := fmt.Sprintf("%x-%x", sha256.Sum256([]byte(find.Signature)), sum.Sum(nil))
	name = name[:8] + name[64:73]
	if err := write(filepath.Join(found, class, name), target, input, find); err != nil {
		fmt.Println("not kept:", err)
	}
}

// trace writes down each input before it is tried: nothing else is left of one that Go cannot recover from.
type trace struct{ file *os.File }

func newTrace() trace {
	path := filepath.Join(os.Getenv("FUZZ_FOUND"), "now")
	if text, err := os.ReadFile(path); err == nil {
		var input Input
		line, _, _ := bytes.Cut(text, []byte("\n"))
		if json.Unmarshal(line, &input) == nil {
			sum := sha256.Sum256(line)
			dir := filepath.Join(os.Getenv("FUZZ_FOUND"), "new", fmt.Sprintf("fatal-%x", sum[:4]))
			_ = write(dir, "build", input, Find{Signature: "fatal"})
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return trace{}
	}
	return trace{file}
}

func (t trace) next(input Input) {
	if line, err := json.Marshal(input); err == nil && t.file != nil {
		_, _ = t.file.WriteAt(append(line, '\n'), 0)
	}
}

func (t trace) end() {
	if t.file != nil {
		_ = os.Remove(t.file.Name())
	}
}

func write(dir, target string, input Input, find Find) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	options, err := json.Marshal(input.Options)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"Dockerfile": input.Dockerfile, "image.json": input.Image, "ignore": input.Ignore, "options.json": options,
		"target": []byte(target + "\n"), "signature": []byte(find.Signature + "\n"), "detail": []byte(find.Detail),
	}
	for name, text := range files {
		if len(text) == 0 || string(text) == "{}" || string(text) == "null" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// read is the input that write has written.
func read(dir string) (target string, input Input, signature string, err error) {
	text := func(name string) []byte {
		data, wrong := os.ReadFile(filepath.Join(dir, name))
		if wrong != nil && !os.IsNotExist(wrong) {
			err = wrong
		}
		return data
	}
	input = Input{Dockerfile: text("Dockerfile"), Image: text("image.json"), Ignore: text("ignore")}
	if options := text("options.json"); len(options) > 0 {
		if wrong := json.Unmarshal(options, &input.Options); wrong != nil {
			err = wrong
		}
	}
	return strings.TrimSpace(string(text("target"))), input, strings.TrimSpace(string(text("signature"))), err
}
