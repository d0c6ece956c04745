// Prints the instructions that BuildKit's own parser finds in Dockerfiles, one JSON value a line. A text is a
// JSON string with one character for each byte.
//
//	instructions texts          the texts by hand, and some by chance
//	instructions texts N SEED   N texts by chance
//	instructions parse          the instructions of each text on standard input
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math/rand"
	"os"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

type heredoc struct {
	Content  string `json:"content"`
	Expanded bool   `json:"expanded"`
}

type instruction struct {
	Line     int       `json:"line"`
	Keyword  string    `json:"keyword"`
	Text     string    `json:"text"`
	Words    []string  `json:"words,omitempty"`
	Heredocs []heredoc `json:"heredocs,omitempty"`
}

// bytewise makes a string with one character for each byte.
func bytewise(text string) string {
	runes := make([]rune, 0, len(text))
	for _, b := range []byte(text) {
		runes = append(runes, rune(b))
	}
	return string(runes)
}

func fromBytewise(text string) []byte {
	var out []byte
	for _, r := range text {
		out = append(out, byte(r))
	}
	return out
}

func parse(text []byte) *[]instruction {
	result, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil
	}
	all := []instruction{}
	for _, node := range result.AST.Children {
		one := instruction{
			Line:    node.StartLine,
			Keyword: bytewise(strings.ToLower(node.Value)),
			Text:    bytewise(node.Original),
		}
		for _, doc := range node.Heredocs {
			one.Heredocs = append(one.Heredocs, heredoc{bytewise(doc.Content), doc.Expand})
		}
		if one.Keyword == "env" || one.Keyword == "arg" || one.Keyword == "label" {
			for word := node.Next; word != nil; word = word.Next {
				one.Words = append(one.Words, bytewise(word.Value))
			}
		}
		all = append(all, one)
	}
	return &all
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if os.Args[1] == "texts" {
		number, seed := 250, int64(1)
		if len(os.Args) > 2 {
			number, _ = strconv.Atoi(os.Args[2])
			seed, _ = strconv.ParseInt(os.Args[3], 10, 64)
		} else {
			for _, text := range byHand {
				encoder.Encode(bytewise(text))
			}
		}
		random := rand.New(rand.NewSource(seed))
		for range number {
			encoder.Encode(bytewise(byChance(random)))
		}
		return
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<24)
	for in.Scan() {
		var text string
		if err := json.Unmarshal(in.Bytes(), &text); err != nil {
			panic(err)
		}
		encoder.Encode(parse(fromBytewise(text)))
	}
}
