// Answers with Docker's own code how patterns match and directories are walked, for comparison: one question
// as JSON on each line of stdin, one answer on each line of stdout. With `receive DIRECTORY` it receives a
// sync instead.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io/fs"
	"log"
	"os"

	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

type question struct {
	// Do these patterns match these paths?
	Patterns []string
	Paths    []string
	// Or: which entries of this directory are sent?
	Root    string
	Include []string
	Exclude []string
	Follow  []string
}

type answer struct {
	// Set when the patterns, or the directory, cannot be used.
	Error string
	// A match for each path; -1 is an error.
	Matches []int
	Stats   []*types.Stat
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "receive" {
		if err := receive(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	questions := bufio.NewScanner(os.Stdin)
	questions.Buffer(nil, 1<<20)
	answers := json.NewEncoder(os.Stdout)
	for questions.Scan() {
		var q question
		if err := json.Unmarshal(questions.Bytes(), &q); err != nil {
			log.Fatal(err)
		}
		var a answer
		var err error
		if q.Root != "" {
			a.Stats, err = walk(q)
		} else {
			a.Matches, err = match(q)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			log.Fatal(err)
		}
	}
	if err := questions.Err(); err != nil {
		log.Fatal(err)
	}
}

func match(q question) ([]int, error) {
	patterns, err := patternmatcher.New(q.Patterns)
	if err != nil {
		return nil, err
	}
	matches := make([]int, len(q.Paths))
	for i, path := range q.Paths {
		matched, _, err := patterns.MatchesUsingParentResults(path, patternmatcher.MatchInfo{})
		switch {
		case err != nil:
			matches[i] = -1
		case matched:
			matches[i] = 1
		}
	}
	return matches, nil
}

func walk(q question) ([]*types.Stat, error) {
	root, err := fsutil.NewFS(q.Root)
	if err != nil {
		return nil, err
	}
	filtered, err := fsutil.NewFilterFS(root, &fsutil.FilterOpt{
		IncludePatterns: q.Include,
		ExcludePatterns: q.Exclude,
		FollowPaths:     q.Follow,
	})
	if err != nil {
		return nil, err
	}
	stats := []*types.Stat{}
	err = fsutil.WithHardlinkReset(filtered).Walk(context.Background(), "/", func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stats = append(stats, info.Sys().(*types.Stat))
		return nil
	})
	return stats, err
}
