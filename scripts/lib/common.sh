# shellcheck shell=bash disable=SC2034
# Sourced by scripts/env: directories, versions and helpers.

CACHE=${WHARF_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/wharf}
RUN=${WHARF_RUN:-$CACHE/run}

say() { printf 'env: %s\n' "$*" >&2; }
die() { printf 'env: error: %s\n' "$*" >&2; exit 1; }

# The variables of `paths` are read by programs without quoting, and mount options have separators of their
# own.
for directory in "$CACHE" "$RUN"; do
    case $directory in
    /*) ;;
    *) die "WHARF_CACHE and WHARF_RUN must be absolute paths, not \`$directory\`" ;;
    esac
    case $directory in
    *[!A-Za-z0-9/._+@-]*) die "WHARF_CACHE and WHARF_RUN may contain only letters, digits and /._+@-: \`$directory\`" ;;
    esac
done
unset directory
mkdir -p "$CACHE" "$RUN" 2>/dev/null || die "cannot create $CACHE and $RUN: set WHARF_CACHE to a directory that you may write to"

# Versions. They are part of a tool's path in the cache: a new version is fetched beside the old one.
GO_VERSION=1.26.8          # when the machine has none, or one older than GO_OLDEST
GO_OLDEST=1.26
DOCKERD_VERSION=v2.0.0-beta.24
BUILDX_VERSION=v0.38.2
BUF_VERSION=v1.75.0
DENY_VERSION=0.20.2
FRONTEND_VERSION=v0.34.2   # of BuildKit, whose Dockerfile frontend it is
GRPC_VERSION=1.85.1
HELM_VERSION=v3.22.0
KUBERNETES_VALIDATE_VERSION=1.37.0
KUBERNETES_VERSION=v1.34.4  # for tests/kubernetes
PROMETHEUS_VERSION=v0.316.0  # whose rules and queries the monitoring's tests check
OLDEST_API=1.45            # Engine 26.1, the oldest that Wharf drives

DEBS_DIR=$CACHE/debs-1
REGISTRY_BIN=$DEBS_DIR/usr/bin/docker-registry
BUSYBOX_BIN=$DEBS_DIR/bin/busybox
GO_DIR=$CACHE/go-$GO_VERSION
DOCKERD_DIR=$CACHE/dockerd-$DOCKERD_VERSION
BUILDX_BIN=$CACHE/buildx-$BUILDX_VERSION/buildx
BUF_BIN=$CACHE/buf-$BUF_VERSION/buf
DENY_BIN=$CACHE/cargo-deny-$DENY_VERSION/bin/cargo-deny
FRONTEND_BIN=$CACHE/frontend-3-$FRONTEND_VERSION/frontend
PROMCHECK_BIN=$CACHE/promcheck-1-$PROMETHEUS_VERSION/promcheck
HELM_BIN=$CACHE/helm-$HELM_VERSION/helm
KUBERNETES_DIR=$CACHE/kubernetes-1-$KUBERNETES_VERSION
CNI_DIR=$CACHE/cni-1
JARS_DIR=$CACHE/jars-1
VENV_DIR=$CACHE/python-2-$GRPC_VERSION-$KUBERNETES_VALIDATE_VERSION
ROOT_26=$CACHE/root-trixie-2
ROOT_29=$CACHE/root-forky-2

# Whether dotted version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# An engine's name as part of a variable's name.
variable() { printf '%s' "$1" | tr 'a-z-' 'A-Z_'; }

need_root() {
    [ "$(id -u)" -eq 0 ] || die "$1 needs root; run the command as root"
}

# Runs a command; shows its output only if it fails.
quietly() {
    local log=$CACHE/log
    mkdir -p "$log"
    log=$log/$1.log
    shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        die "failed: $* (all of its output: $log)"
    fi
}
