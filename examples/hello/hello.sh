#!/bin/sh
# Greets whom it is told to, in every language it knows.
set -eu

version="@VERSION@"
phrases="${HELLO_PHRASES:-/etc/hello/phrases.txt}"

while read -r language phrase; do
    printf '%s: %s, %s!\n' "$language" "$phrase" "${1:-world}"
done <"$phrases"
printf 'hello %s\n' "$version"
