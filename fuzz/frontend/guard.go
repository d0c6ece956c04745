package frontend

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// More than any input of `inputBytesMax` should have at once.
	heapMax = 256 << 20
	// More processor time than it should take.
	timeMax = 5 * time.Second
	// When the fuzzer gives up on an input, and ends.
	timeFatal = 20 * time.Second
	heapFatal = 2 << 30
	// Go ends a program whose stack has more than 1 GiB. A Dockerfile of wharfd's limit, 1 MiB, is 16 times as
	// long as the largest input here.
	stackMax = 64 << 20
)

// Find is an input that the frontend did not survive, or that cost too much.
type Find struct {
	// Signature says what and where, the same for all inputs of one fault.
	Signature string
	Detail    string
}

// running is the input at work, for the watch.
var running struct {
	sync.Mutex
	input  *Input
	target string
	begin  time.Duration
	// The largest heap so far.
	heap uint64
	// The stack at the moment when it had cost half of what is allowed.
	stack []byte
}

// processor is the time that the process has computed. Wall time says little on a busy machine.
func processor() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func sampled(name string) uint64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func heap() uint64 { return sampled("/memory/classes/heap/objects:bytes") }

var watching sync.Once

// watch notes where an input that costs much spends it, and ends the process when it does not end.
func watch() {
	debug.SetMaxStack(stackMax)
	for range time.Tick(20 * time.Millisecond) {
		running.Lock()
		if running.input == nil {
			running.Unlock()
			continue
		}
		spent, heap := processor()-running.begin, heap()
		running.heap = max(running.heap, heap)
		if running.stack == nil && (spent > timeMax/2 || heap > heapMax/2) {
			stack := make([]byte, 1<<20)
			running.stack = stack[:runtime.Stack(stack, true)]
		}
		if spent > timeFatal || heap > heapFatal {
			kind := "time without end"
			if heap > heapFatal {
				kind = "memory without end"
			}
			find := Find{kind + " in " + busy(running.stack), string(running.stack)}
			keep(running.target, *running.input, find)
			// What is kept here need not be found once more by the next run.
			_ = os.Remove(filepath.Join(os.Getenv("FUZZ_FOUND"), "now"))
			os.Exit(3)
		}
		running.Unlock()
	}
}

// guarded runs f and says what is wrong with the input, if anything.
func guarded(target string, input Input, f func()) (find *Find) {
	watching.Do(func() { go watch() })
	begin := processor()
	running.Lock()
	running.input, running.target, running.begin, running.heap, running.stack = &input, target, begin, 0, nil
	running.Unlock()
	defer func() {
		value := recover()
		running.Lock()
		stack, heap := running.stack, running.heap
		running.input = nil
		running.Unlock()
		if value != nil {
			stack := debug.Stack()
			if inner, ok := value.(interface{ FuzzStack() []byte }); ok {
				stack = inner.FuzzStack()
			}
			text := fmt.Sprint(value)
			find = &Find{"panic: " + kind(text) + " in " + place(stack), text + "\n" + string(stack)}
			return
		}
		spent := processor() - begin
		switch {
		case heap > heapMax:
			find = &Find{"memory in " + busy(stack), fmt.Sprintf("a heap of %d MiB\n%s", heap>>20, stack)}
		case spent > timeMax:
			find = &Find{"time in " + busy(stack), fmt.Sprintf("%s of processor time\n%s", spent, stack)}
		}
	}()
	f()
	return nil
}

var numbers = regexp.MustCompile(`0x[0-9a-f]+|-?[0-9]+`)

// kind is a panic's text without its values.
func kind(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	text = numbers.ReplaceAllString(text, "N")
	if len(text) > 100 {
		text = text[:100]
	}
	return strings.ToValidUTF8(text, "?")
}

// A frame's function, and its file and line.
var frame = regexp.MustCompile(`(?m)^([^\s].*)\(.*\)\n\t(\S+):(\d+)`)

// busy is the place of the goroutine that computes, of all.
func busy(stacks []byte) string {
	for _, stack := range bytes.Split(stacks, []byte("\n\n")) {
		head, _, _ := bytes.Cut(stack, []byte("\n"))
		if !bytes.Contains(head, []byte("[run")) {
			continue
		}
		if place := place(stack); place != "unknown" {
			return place
		}
	}
	return place(stacks)
}

// place is the innermost function outside of Go's own library, and its line.
func place(stack []byte) string {
	for _, found := range frame.FindAllSubmatch(stack, -1) {
		function, file := string(found[1]), string(found[2])
		first, _, isPath := strings.Cut(function, "/")
		if !isPath || !strings.Contains(first, ".") || strings.HasPrefix(function, "wharf.invalid/") ||
			strings.HasPrefix(function, "golang.org/x/sync/") || strings.Contains(file, "_test.go") {
			continue
		}
		return fmt.Sprintf("%s:%s", function[strings.LastIndex(function, "/")+1:], found[3])
	}
	return "unknown"
}
