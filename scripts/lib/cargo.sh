# shellcheck shell=bash
# Sourced by the demo, the tests and the benches: the only way in which Wharf is built for use. Binaries are
# static, since `wharf` runs in any agent's image.

crate=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
# An explicit target keeps the flags from proc macros, which cannot be static.
TARGET=$(rustc -vV | sed -n 's/^host: //p')
# shellcheck disable=SC2034
BIN_DIR=${CARGO_TARGET_DIR:-$crate/target}/$TARGET/release
export RUSTFLAGS="-C target-feature=+crt-static"

# release build --bins ; release test ; release clippy --all-targets
release() {
    local command=$1
    shift
    (cd "$crate" && cargo "$command" --release --locked --target "$TARGET" "$@")
}

# Lints the crate, with what only the fuzzers use, and the fuzzers, in the same target tree.
lint_rust() {
    local target=${CARGO_TARGET_DIR:-$crate/target}
    release clippy --all-targets --features fuzzing -- -D warnings
    release clippy --manifest-path fuzz/Cargo.toml --target-dir "$target" --bins -- -D warnings
}
