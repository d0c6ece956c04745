//! Dockerfiles as people write them: wharfd's judge refuses none of them. Its unit tests (`src/build/dockerfile`) read
//! them as well.

mod images;

pub(crate) use images::IMAGES;

/// Shapes of single lines and instructions. Every version of BuildKit reads them.
pub(crate) const LINES: &[(&str, &str)] = &[
    (
        "heredoc, shell",
        r#"FROM alpine
RUN <<EOF
set -e
apk add git
echo "$HOME" ${x#y}
EOF
"#,
    ),
    (
        "heredoc, python",
        r#"FROM python
RUN python3 <<EOF
with open('/x', 'w') as f:
    print('FROM x', file=f)
EOF
"#,
    ),
    (
        "heredoc, shebang",
        "FROM alpine\nRUN <<\"EOT\" bash\n#!/usr/bin/env python\nprint(\"# escape=`\")\nEOT\n",
    ),
    (
        "heredocs, two",
        r#"FROM scratch
COPY <<one <<two /dir/
a
one
b
two
COPY <<-"three" /c
	x
	three
"#,
    ),
    (
        "heredoc, joined",
        r#"FROM alpine
RUN cat <<EOF > /a && \
  cat <<END > /b
a
EOF
b
END
"#,
    ),
    (
        "heredoc, unmatched quote inside",
        r#"FROM alpine
RUN <<EOF
echo "it's
EOF
"#,
    ),
    (
        "heredoc, ini",
        r#"FROM alpine
COPY --chmod=0644 <<EOF /etc/app.ini
[main]
key = ${VALUE:-default}
path = C:\\x
EOF
"#,
    ),
    ("shift", "FROM alpine\nRUN echo $((1<<4)) && cat <<< \"here-string\" || true\n"),
    ("a word before <<", "FROM alpine\nRUN sh -c 'cat <<EOF' ; echo 1<<2\n2\n"),
    (
        "escape directive, spaces",
        r#"#   escape   =   `  
FROM alpine
RUN echo a `
  && echo b
"#,
    ),
    (
        "syntax",
        r#"# syntax=docker/dockerfile:1

FROM alpine
RUN --mount=type=secret,id=npm,target=/root/.npmrc npm ci
"#,
    ),
    (
        "syntax, labs",
        "#syntax=docker/dockerfile:1-labs\n# check=skip=JSONArgsRecommended;error=true\nFROM scratch\n",
    ),
    (
        "comments first",
        r#"# Copyright
#
# syntax=is not one


FROM alpine
# end
"#,
    ),
    (
        "CRLF",
        "FROM alpine\r\nENV A=1 \\\r\n    B=2\r\nRUN echo $A \\\r\n  # why\r\n  && echo $B\r\n\r\nCMD [\"sh\"]\r\n",
    ),
    ("CRLF, heredoc", "FROM alpine\r\nRUN <<EOF\r\necho a\r\nEOF\r\n"),
    ("BOM", "\u{feff}FROM alpine\nRUN true\n"),
    ("BOM, CRLF, directive", "\u{feff}# escape=`\r\nFROM alpine\r\nRUN a `\r\n b\r\n"),
    ("no newline at the end", "FROM alpine\nCMD sh"),
    (
        "lower case",
        r#"from alpine as one
run true
from alpine
copy --from=one / /x
cmd sh
"#,
    ),
    (
        "arguments before FROM",
        r#"ARG REGISTRY=docker.io
ARG TAG=3.19
ARG BASE=${REGISTRY}/library/alpine:${TAG:-latest}
FROM ${BASE} AS base
ARG TAG
LABEL tag=$TAG
"#,
    ),
    (
        "FROM an argument",
        r#"ARG X=alpine
FROM $X AS y
FROM ${X:-busybox} AS z
FROM y
"#,
    ),
    (
        "a stage by an argument",
        r#"ARG flavor=debug
FROM alpine AS debug
FROM alpine AS release
FROM ${flavor} AS final
RUN true
"#,
    ),
    (
        "digits",
        r#"FROM alpine
RUN true
FROM alpine
COPY --from=0 /a /a
RUN --mount=from=0,target=/m true
"#,
    ),
    ("digest", "FROM alpine:3.19@sha256:c5b1261d6d3e43071626931fc004f70149baeba2c8ec672bd4f27761f8e1ad6b\n"),
    (
        "--platform",
        "FROM --platform=linux/amd64 alpine AS a\nFROM --platform=${BUILDPLATFORM:-linux/amd64} alpine\n",
    ),
    (
        "ONBUILD",
        r#"FROM alpine
ONBUILD COPY . /app
ONBUILD RUN make -C /app PATH=$PATH
ONBUILD ENV A=1
"#,
    ),
    (
        "mounts",
        r#"FROM alpine
RUN --mount=type=cache,id=a,target=/c,sharing=locked,uid=1000,gid=1000,mode=0755 \
    --mount=type=tmpfs,target=/t,size=64m --mount=type=ssh,id=default \
    --mount=type=bind,from=alpine,source=/etc,target=/e,rw \
    --mount=type=secret,id=s,required=false,env=S \
    true
"#,
    ),
    ("--network", "FROM alpine\nRUN --network=none --mount=type=cache,target=/x true\n"),
    (
        "COPY flags",
        r#"FROM alpine AS a
FROM alpine
COPY --link --chown=1000:1000 --chmod=755 --from=a /a /b
ADD --chown=www-data:www-data a.tar.gz /x/
"#,
    ),
    (
        "ADD",
        "FROM alpine\nADD https://example.com/a.tar.gz /tmp/\nADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/x /y\n",
    ),
    (
        "COPY of odd names",
        r#"FROM alpine
COPY ["a b", "c[[]d]", "/x y/"]
COPY a\ b /c\ d/
COPY *.txt ?.md [a-c]* /x/
"#,
    ),
    (
        "JSON, almost",
        r#"FROM alpine
CMD ['node', 'x']
ENTRYPOINT [ "a", "b" ] 
RUN [ "sh", "-c", "echo \"$HOME\"" ]
"#,
    ),
    ("test brackets", "FROM alpine\nRUN [ -f /etc/passwd ] && echo yes || [[ $x == 1 ]]\n"),
    (
        "old forms",
        r#"FROM alpine
MAINTAINER A B <a@example.com>
ENV key some value with spaces
LABEL a b
ENV a=b\ c d='e f' g="h $i"
"#,
    ),
    (
        "empty continuation lines",
        r#"FROM alpine
RUN a && \

  b && \
   
  # c

  d
CMD x
"#,
    ),
    ("continuation at the end", "FROM alpine\nRUN a && \\\n"),
    (
        "tabs",
        r#"FROM	alpine
RUN		a	\
	&& b
ENV	A=1	B=2
"#,
    ),
    (
        "patterns",
        "FROM alpine\nARG V=v1.2.3-rc\nENV A=${V#v} B=${V##*.} C=${V%-*} D=${V%%.*} E=${V/v/} F=${V//./_} G=${V:+set} H=${V:-unset}\n",
    ),
    (
        "dollars",
        r#"FROM alpine
ENV A=\$x B='$x' C=$$ D="\${y}"
RUN echo $$ $? $# $@ ${#x} ${x:0:3} ${!x} ${x^^} ${x,,}
CMD echo ${x#} ${x%}
"#,
    ),
    (
        "awk and sed",
        "FROM alpine\nRUN sed -ri -e 's!^(\\s*CustomLog)\\s+\\S+!\\1 /proc/self/fd/1!g' -e \"s/\\r$//\" /x && awk '{ print $1 \"\\t\" $NF }' /y && printf '%s\\n' \"\\\\\"\n",
    ),
    (
        "HEALTHCHECK",
        r#"FROM alpine
HEALTHCHECK NONE
HEALTHCHECK --interval=5m --start-period=5s --retries=3 CMD ["/check", "--x"]
EXPOSE 80/tcp 443/udp 8000-8100
VOLUME ["/a", "/b"]
STOPSIGNAL 9
"#,
    ),
    (
        "WORKDIR and USER",
        r#"FROM alpine
WORKDIR /a
WORKDIR b/${C:-c}
USER ${UID:-1000}:${GID:-1000}
"#,
    ),
    (
        "Unicode",
        r#"FROM alpine
LABEL maintainer="Jürgen 🐳" größe=1
RUN echo 'سلام' # ✓
COPY données/ /x/
"#,
    ),
    (
        "proxies",
        r#"FROM alpine
ARG http_proxy
ARG HTTPS_PROXY=${http_proxy}
ENV http_proxy=$http_proxy no_proxy="localhost,.example.com"
"#,
    ),
    (
        "secrets in ARG",
        "FROM alpine\nARG TOKEN\nRUN git config --global url.\"https://${TOKEN}@github.com/\".insteadOf \"https://github.com/\"\n",
    ),
    (
        "bash arrays",
        "FROM alpine\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN a=(1 2 3); for i in \"${a[@]}\"; do echo \"$i\"; done; cmd 2>&1 | tee >(cat >/x)\n",
    ),
    (
        "many stages",
        r#"FROM alpine AS a
FROM a AS b
FROM b AS c
RUN true
FROM scratch
COPY --from=a / /a
COPY --from=b / /b
COPY --from=c / /c
"#,
    ),
    (
        "the same name twice",
        r#"FROM alpine AS build
RUN a
FROM alpine AS build
RUN b
FROM build
"#,
    ),
];

/// Those that only newer versions read.
pub(crate) const NEWER: &[(&str, &str)] = &[
    (
        "COPY --parents",
        r#"# syntax=docker/dockerfile:1.20
FROM alpine
COPY --parents --exclude=*.md ./x/a.txt ./y/ /dst/
ADD --unpack=true a.tar /x
"#,
    ),
    ("--security", "FROM alpine\nRUN --security=sandbox true\n"),
    (
        "blanks after <<",
        r#"FROM alpine
RUN cat << EOF > /x
a
EOF
"#,
    ),
    ("a required variable", "FROM alpine\nARG B=1\nENV A=\"${B:?must be set}\"\n"),
];
