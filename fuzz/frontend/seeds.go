package frontend

import "strings"

type seed struct{ dockerfile, image, options string }

// parts reads a file of seeds/. Records are lines there; `\n` in one is the end of a line in it.
func parts(text string) (seed seed) {
	rest := text
	if before, after, found := strings.Cut(rest, "%options\n"); found {
		rest, seed.options = before, asRecords(after)
	}
	if before, after, found := strings.Cut(rest, "%image\n"); found {
		rest, seed.image = before, asRecords(after)
	}
	seed.dockerfile = rest
	return seed
}

func asRecords(text string) string {
	text = strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\x00")
	return strings.ReplaceAll(text, `\n`, "\n")
}
