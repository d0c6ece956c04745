package frontend

import "strings"

// Tables of 256 tokens: the fuzzer changes bytes, and each byte is a word of the language. A text of the right
// words gets much further than one of random bytes.

func table(tokens ...string) [256]string {
	var table [256]string
	for i := range table {
		if i < len(tokens) {
			table[i] = tokens[i]
		} else {
			table[i] = string(rune(' ' + i%95))
		}
	}
	return table
}

var dockerfileTokens = table(
	"\n", "\n", " ", "\\\n", "\r\n", "\\", "`", "\t", "\v", "\u00a0", "\x00", "\u2028",
	"FROM ", "ARG ", "ENV ", "RUN ", "COPY ", "ADD ", "LABEL ", "EXPOSE ", "VOLUME ", "USER ", "WORKDIR ", "CMD ",
	"ENTRYPOINT ", "SHELL ", "HEALTHCHECK ", "STOPSIGNAL ", "MAINTAINER ", "ONBUILD ",
	"\nFROM ", "\nARG ", "\nENV ", "\nRUN ", "\nCOPY ", "\nADD ", "\nLABEL ", "\nEXPOSE ", "\nVOLUME ", "\nUSER ",
	"\nWORKDIR ", "\nCMD ", "\nENTRYPOINT ", "\nSHELL ", "\nHEALTHCHECK ", "\nSTOPSIGNAL ", "\nONBUILD ",
	"from ", "arg ", "onbuild ",
	"FROM base", "\nFROM base AS a", "\nFROM a AS b", "\nFROM scratch", "\nFROM plain", " AS ", "base", "scratch", "plain",
	"a", "b", "x", "A", "stage-0", "0", "1", "-1", "999999999999999999999", "=", "==", ",", ":", "/", ".", "..", "@",
	"#", "# ", "# syntax=", "# escape=`\n", "# escape=\\\n", "# check=", "skip=all", "skip=StageNameCasing", ";error=true",
	"experimental=all", "//",
	"$", "$a", "$A", "${", "}", "${a}", "${a:-", "${a:+", "${a:?", "${a-", "${a+", "${a?", "${a#", "${a##", "${a%", "${a%%",
	"${a/", "${a//", "$$", "$(", "${:-}", "${}", "${a:", "$\\", "\"$a\"", "'$a'",
	"\"", "'", "[", "]", "[\"", "\", \"", "\"]", "[]", "[\"a\"]", "[\"a\",\"b\"]", "{", "null", "[null]",
	"<<EOF\n", "<<-EOF\n", "<<\"EOF\"\n", "<<'E'\n", "EOF", "\nEOF\n", "<<", "<<-", "3<<EOF", "<<EOF <<E\n", "\nE\n", "\tEOF\n",
	"--", "--from=", "--from=a ", "--from=0 ", "--from=base ", "--from=1 ", "--chown=", "--chown=1:1 ", "--chown=a:b ", "--chmod=",
	"--chmod=644 ", "--chmod=u+x ", "--link ", "--parents ", "--exclude=", "--checksum=", "--checksum=sha256:", "--keep-git-dir=true ",
	"--unpack ", "--platform=", "--platform=$BUILDPLATFORM ", "--platform=linux/arm64 ", "--platform=windows/amd64 ",
	"--mount=", "--mount=type=bind", ",from=a", ",from=base", ",source=", ",target=", "/x", "--mount=type=cache,target=/c ",
	",id=", ",sharing=", "locked", ",uid=", ",gid=", ",mode=", ",size=", "--mount=type=secret", ",required", ",env=",
	"--mount=type=ssh ", "--mount=type=tmpfs,target=/t ", "--network=none ", "--network=host ", "--network=default ",
	"--security=insecure ", "--security=sandbox ", "--device=", "--interval=", "1s", "--timeout=", "--start-period=",
	"--start-interval=", "--retries=", "NONE", "CMD",
	"TARGETPLATFORM", "BUILDPLATFORM", "TARGETARCH", "SOURCE_DATE_EPOCH", "BUILDKIT_SBOM_SCAN_STAGE", "BUILDKIT_SBOM_SCAN_CONTEXT",
	"=true", "http_proxy", "PATH", "HOME", "C:\\", "c:/", "\\\\", "/etc", "~", "*", "?", "**", "[a-z]", "[^", "[a", "!",
	"https://example.com/a.tar", "https://github.com/a/b.git", "git@github.com:a/b.git#", "http://", "data:", "80", "80/tcp", "1-2",
	"80-70/udp", "ENV a=b", "ARG a=b", "ARG a", " a=$a$a", "\xff", "\ufeff", "é", "name", "latest", "@sha256:",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"\nENV a=$a$a", "\nARG a", "\nFROM a", "1-65535", "/udp", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	"\nFROM base AS a", "\nCOPY --from=a a b", "\nRUN a", "\nONBUILD RUN a", "{a,b}",
)

// The records of `image`.
var imageTokens = table(
	"\x00E", "\x00O", "\x00U", "\x00W", "\x00S", "\x00C", "\x00N", "\x00X", "\x00V", "\x00L", "\x00H", "\x00P", "\x00T", "\x00R", "\x00Y",
	"\x00Ea=", "\x00EPATH=", "\x00E=", "\x00E", "\x00ORUN ", "\x00OCOPY ", "\x00OADD ", "\x00OARG ", "\x00OENV ", "\x00OFROM ",
	"\x00OONBUILD ", "\x00OWORKDIR ", "\x00O# ", "\x00O# check=", "\x00O\n# check=skip=all\nRUN x", "\x00O# escape=`\n", "\x00O# syntax=",
	"\x00OUSER ", "\x00OLABEL ", "\x00OSHELL ", "\x00OVOLUME ", "\x00OEXPOSE ", "\x00OHEALTHCHECK ", "\x00OCMD ", "\x00OMAINTAINER ",
	"\x00Plinux/amd64", "\x00Pwindows/amd64", "\x00Plinux/arm64/v8", "\x00Pdarwin/", "\x00P/", "\x00W/w", "\x00WC:\\w", "\x00W..",
	"\x00U1:1", "\x00Ua:b", "\x00U", "\x00S/bin/sh -c", "\x00Scmd /S /C", "\x00X80/tcp", "\x00V/v", "\x00HNONE", "\x00HCMD-SHELL x",
	"\x00T2020-01-01T00:00:00Z", "\x00T0001-01-01T00:00:00Z", "\x00T", "\n", "\r\n", " ", "\\\n", "\\", "=", "$a", "${a}", "${a:-", "}", "$", "${", "\"", "'",
	"a", "b", "x", "/", ".", "..", ":", "--from=a ", "--from=base ", "--from=0 ", "--mount=type=bind,from=a,target=/x ", "<<EOF\n", "\nEOF\n",
	"--chown=$a ", "--link ", "[\"a\"]", "[", "]", ",", "0", "1", "-1", "#", "check=", "skip=all", "escape=", "`", "TARGETARCH", "\ufeff", "\xff",
	"FROM base", "\nFROM base", "\nRUN x", "\nARG a", "\nENV a=$a$a",
)

var optionTokens = table(
	"\x00target=", "\x00build-arg:", "\x00label:", "\x00no-cache=", "\x00add-hosts=", "\x00shm-size=", "\x00ulimit=", "\x00force-network-mode=",
	"\x00build-arg:a=", "\x00build-arg:A=", "\x00build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR=", "\x00build-arg:BUILDKIT_DOCKERFILE_CHECK=",
	"\x00build-arg:BUILDKIT_MULTI_PLATFORM=", "\x00build-arg:BUILDKIT_SANDBOX_HOSTNAME=", "\x00build-arg:SOURCE_DATE_EPOCH=",
	"\x00build-arg:BUILDKIT_SBOM_SCAN_STAGE=", "\x00build-arg:http_proxy=", "\x00build-arg:NO_PROXY=", "\x00build-arg:TARGETPLATFORM=",
	"\x00build-arg:TARGETARCH=", "\x00build-arg:BUILDPLATFORM=", "\x00build-arg:base=", "\x00target=a", "\x00target=b", "\x00target=0", "\x00target=1", "\x00target=stage-0",
	"\x00no-cache=a", "\x00no-cache=a,b", "\x00label:a=b", "\x00force-network-mode=none", "\x00shm-size=1", "\x00ulimit=nofile=1:2", "\x00add-hosts=a=1.2.3.4",
	"skip=all", ";", "error=true", "experimental=all", "true", "1", "0", "-1", "context", "99999999999999999999", "a", "b", "=", ",", ":", "/", "linux/arm64", "windows",
	"$a", "${a}", "\n", "\\", "\"", "'", " ", "::1", "host-gateway", "\xff", "scratch", "base", "plain",
)

// text spells out the tokens.
func text(table *[256]string, data []byte) string {
	var out strings.Builder
	for _, b := range data {
		out.WriteString(table[b])
	}
	return out.String()
}

func spelled(dockerfile, config, opts []byte) Input {
	return raw(
		[]byte(text(&dockerfileTokens, dockerfile)),
		[]byte(strings.TrimPrefix(text(&imageTokens, config), "\x00")),
		[]byte(strings.TrimPrefix(text(&optionTokens, opts), "\x00")), nil,
	)
}

// tokens is the other way round, for the seeds: the longest token first, and a text without a table's letters
// loses those.
func tokens(table *[256]string, text string) []byte {
	var out []byte
	for len(text) > 0 {
		best, length := -1, 0
		for i, token := range table {
			if len(token) > length && strings.HasPrefix(text, token) {
				best, length = i, len(token)
			}
		}
		if best < 0 {
			text = text[1:]
			continue
		}
		out = append(out, byte(best))
		text = text[length:]
	}
	return out
}
