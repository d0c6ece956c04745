# Two commands matter: `make demo` and `make test`. Each sets up all it needs,
# through scripts/env, from a machine with nothing but a Rust toolchain.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-kubernetes soak check unit fuzz fuzz-frontend deny build frontend manifests package engines down bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 17

demo: ## build, push, pull back and run examples/hello with a real engine and registry
	scripts/demo

test: ## run all tests, on both engines, from nothing
	scripts/test

test-kubernetes: ## the chart in a real cluster of one node, from nothing
	tests/kubernetes/run

soak: engines ## WHARF_SOAK (200) namespaces begin and end while wharfd is killed again and again, on both engines
	WHARF_SOAK=$${WHARF_SOAK:-200} cargo test --test wharf -- soak

# Both build as `make test` does, so that all three share one target tree: the static release one,
# which is the one that is shipped, measured and tested in its image, and so is needed anyway.
check: ## formatting and lints, of Rust and of scripts
	cargo fmt --check
	@. scripts/lib/scripts.sh && lint_scripts
	@. scripts/lib/cargo.sh && lint_rust

unit: ## the tests that need no engine
	@. scripts/lib/cargo.sh && release test --lib --bins --test layout

fuzz: ## each fuzzer of fuzz/ for FUZZ_SECONDS (600), from a seed that it prints
	scripts/fuzz $${FUZZ_SECONDS:-600}

fuzz-frontend: ## BuildKit's Dockerfile frontend, each version and fuzzer for FUZZ_SECONDS (600)
	scripts/fuzz-frontend $${FUZZ_SECONDS:-600}

deny: ## check the dependencies' licences, bans, duplicates and sources
	scripts/env setup test
	@eval "$$(scripts/env paths)" && for manifest in Cargo.toml fuzz/Cargo.toml; do \
	    "$$WHARF_DENY" --locked --manifest-path "$$manifest" check --hide-inclusion-graph licenses bans sources || exit; \
	done

build: ## static release binaries
	@. scripts/lib/cargo.sh && release build --bins && echo "$$BIN_DIR"

frontend: ## BuildKit's Dockerfile frontend, to install beside wharfd; prints its path
	@scripts/env setup frontend && scripts/env paths | sed -n 's/^WHARF_FRONTEND=//p'

manifests: ## deploy/kustomize from the chart deploy/helm/wharf
	@scripts/env setup test && scripts/manifests

package: ## the programs for a node, in one directory: wharf, wharfd and wharf-frontend; prints its path
	@scripts/package

engines: ## bring up the two engines that tests run on, and leave them up
	scripts/env setup test
	scripts/env up 26
	scripts/env up 29

down: ## stop them
	scripts/env down 26
	scripts/env down 29

bench: ## measure beside docker build and buildx, on both engines
	benches/run

clean: ## remove what cargo built; the tools' cache stays (scripts/env paths: WHARF_CACHE)
	cargo clean
