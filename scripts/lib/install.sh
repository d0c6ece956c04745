# shellcheck shell=bash disable=SC2154
# Sourced by scripts/env: gets tools into the cache. Everything in the cache is complete: each tool is made
# beside its place and then moved there, so that an interrupted run leaves nothing that looks finished.

setup() {
    local what=${1:-test}
    case $what in
    demo | test | frontend | kubernetes) ;;
    *) die "setup needs \`demo\`, \`test\`, \`frontend\` or \`kubernetes\`, not \`$what\`" ;;
    esac
    case $what in
    test | kubernetes) need_root "setting up the tests' engines" ;;
    esac
    command -v cargo >/dev/null || die "no Rust toolchain (cargo is not on PATH): install one, see https://rustup.rs"
    lock_setup
    if [ "$what" = frontend ]; then
        ensure_frontend
        return
    fi
    if [ "$what" = kubernetes ]; then
        ensure_packages demo
        ensure_debs
        ensure_root 26
        ensure_frontend
        ensure_helm
        ensure_kubernetes
        ensure_cni
        return
    fi
    ensure_packages "$what"
    ensure_debs
    [ "$what" = test ] || return 0
    ensure_root 26
    ensure_root 29
    ensure_go
    ensure_dockerd
    ensure_go_tool buildx "$BUILDX_BIN" github.com/docker/buildx/cmd/buildx "$BUILDX_VERSION"
    ensure_go_tool buf "$BUF_BIN" github.com/bufbuild/buf/cmd/buf "$BUF_VERSION"
    ensure_helm
    ensure_deny
    ensure_frontend
    ensure_promcheck
    ensure_jars
    ensure_python
}

# Only one setup at a time. The lock is held until this process ends.
lock_setup() {
    exec 8>"$CACHE/setup.lock"
    flock -n 8 || { say "waiting for another setup"; flock 8; }
}

# A directory to build something in; it is removed when the script ends.
scratch_directories=()
scratch() {
    SCRATCH=$(mktemp -d "$CACHE/tmp.XXXXXX")
    scratch_directories+=("$SCRATCH")
}
remove_scratch() {
    local directory
    for directory in "${scratch_directories[@]}"; do
        # Go's module cache is read-only.
        chmod -R u+w "$directory" 2>/dev/null || true
        rm -rf --one-file-system "$directory"
    done
}
trap remove_scratch EXIT

# --- Debian's and Ubuntu's packages -----------------------------------------

apt() {
    # Another apt may be running (such as the machine's automatic upgrades): wait for its lock.
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -q -y "$@"
}

apt_update() {
    [ -z "${apt_updated:-}" ] || return 0
    say "apt-get update"
    # An unreachable third-party list does not stop the setup: the step that needs a missing package names it.
    apt update >"$CACHE/apt-update.log" 2>&1 || say "apt-get update failed (see $CACHE/apt-update.log); continuing with the old lists"
    apt_updated=1
}

install_packages() {
    command -v apt-get >/dev/null || die "missing: $*; this machine has no apt-get: install them by other means"
    [ "$(id -u)" -eq 0 ] || die "missing packages: $*; as root: apt-get install -y --no-install-recommends $*"
    apt_update
    say "apt-get install $*"
    mkdir -p "$CACHE/log"
    quietly apt-install apt install --no-install-recommends "$@"
}

# Installs the packages whose commands are missing.
ensure_packages() {
    local missing=() command package
    while read -r command package; do
        command -v "$command" >/dev/null || missing+=("$package")
    done <<'PACKAGES'
curl curl
gcc gcc
nsenter util-linux
jq jq
PACKAGES
    # Static linking needs libc.a, and C parts of crates need the headers.
    [ -n "$(find /usr/lib -maxdepth 2 -name libc.a -print -quit)" ] || missing+=(libc6-dev)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ "$1" = test ]; then
        command -v g++ >/dev/null || missing+=(g++)
        command -v htpasswd >/dev/null || missing+=(apache2-utils)
        command -v shellcheck >/dev/null || missing+=(shellcheck)
        command -v git >/dev/null || missing+=(git)
        command -v systemd-analyze >/dev/null || missing+=(systemd)
        command -v debootstrap >/dev/null || missing+=(debootstrap)
        command -v javac >/dev/null || missing+=(default-jdk-headless)
        command -v mvn >/dev/null || missing+=(maven)
        { command -v python3 && python3 -c 'import ensurepip, venv'; } >/dev/null 2>&1 || missing+=(python3-venv)
    fi
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# Gets the registry and busybox from their packages, without installing them: the registry's package would
# start a service, busybox's would replace another.
ensure_debs() {
    [ ! -x "$REGISTRY_BIN" ] || [ ! -x "$BUSYBOX_BIN" ] || return 0
    command -v apt-get >/dev/null || die "missing: docker-registry and busybox-static, which are taken from Debian's or Ubuntu's packages; this machine has no apt-get"
    say "unpacking docker-registry and busybox-static"
    scratch
    local debs=$SCRATCH deb
    if ! (cd "$debs" && apt-get -q -o APT::Sandbox::User="$(id -un)" download docker-registry busybox-static) >"$debs/log" 2>&1; then
        [ "$(id -u)" -eq 0 ] || die "cannot download the packages docker-registry and busybox-static; as root: apt-get update"
        apt_update
        (cd "$debs" && quietly apt-download apt-get -q -o APT::Sandbox::User=root download docker-registry busybox-static)
    fi
    mkdir "$debs/tree"
    for deb in "$debs"/*.deb; do dpkg-deb -x "$deb" "$debs/tree"; done
    # If / and /usr are merged, the packages put busybox under /usr.
    if [ ! -e "$debs/tree/bin/busybox" ]; then mkdir -p "$debs/tree/bin" && cp "$debs/tree/usr/bin/busybox" "$debs/tree/bin/busybox"; fi
    rm -rf "$DEBS_DIR"
    mv "$debs/tree" "$DEBS_DIR"
    if [ ! -x "$REGISTRY_BIN" ] || [ ! -x "$BUSYBOX_BIN" ]; then die "the packages docker-registry and busybox-static do not contain $REGISTRY_BIN and $BUSYBOX_BIN"; fi
}

# --- the engines -------------------------------------------------------------

# Gets everything that an engine of a kind needs to start.
ensure_engine() {
    if command -v curl >/dev/null && [ -x "$ROOT_26/usr/sbin/dockerd" ]; then
        [ "$1" != 26 ] || return 0
        if [ -x "$ROOT_29/usr/sbin/dockerd" ] && [ -x "$DOCKERD_DIR/dockerd" ]; then return 0; fi
    fi
    lock_setup
    command -v curl >/dev/null || install_packages curl
    ensure_root 26
    if [ "$1" = 29 ]; then
        ensure_root 29
        ensure_dockerd
    fi
    exec 8>&-
}

# A small Debian with an engine in it, as a private engine's root. 26.1 is in Debian 13; the newest engine
# runs with containerd and runc from Debian testing.
ensure_root() {
    local root suite
    case $1 in
    26) root=$ROOT_26 suite=trixie ;;
    29) root=$ROOT_29 suite=forky ;;
    esac
    [ ! -x "$root/usr/sbin/dockerd" ] || return 0
    need_root "making a private engine"
    local missing=()
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    # Ubuntu's debootstrap does not depend on it, and would then check no signature.
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
    [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
    say "debootstrap $suite, the root of engine $1 (half a minute)"
    local script=/usr/share/debootstrap/scripts/$suite
    scratch
    local new=$SCRATCH
    if [ ! -e "$script" ]; then
        # An older debootstrap does not know the suite; all suites use sid's script.
        script=/usr/share/debootstrap/scripts/sid
    fi
    local include=docker.io,docker-cli,iptables,ca-certificates,tini,procps,git,iproute2
    # In a mount namespace, so that its mounts disappear even if it is killed.
    quietly "debootstrap-$suite" unshare --mount --propagation private -- \
        debootstrap --variant=minbase --include="$include" "$suite" "$new/root" "" "$script"
    rm -rf "$new/root"/var/cache/apt/archives/*.deb "$new/root"/var/lib/apt/lists/*
    if [ "$1" = 26 ]; then
        case $(chroot "$new/root" /usr/sbin/dockerd --version) in
        *' 26.1.'*) ;;
        *) die "Debian $suite has no Engine 26.1 any more: $(chroot "$new/root" /usr/sbin/dockerd --version)" ;;
        esac
    fi
    chmod 755 "$new/root"
    rm -rf --one-file-system "$root"
    mv "$new/root" "$root"
}

# The docker client: the machine's own if the engines accept it, else the client of the 26 root, with that
# root's libraries.
docker_client() {
    local version
    if command -v docker >/dev/null; then
        version=$(docker version --format '{{.Client.APIVersion}}' 2>/dev/null || true)
        if [ -n "$version" ] && at_least "$version" "$OLDEST_API"; then
            command -v docker
            return
        fi
    fi
    [ -x "$ROOT_26/usr/bin/docker" ] || return 0
    local wrapper=$CACHE/docker-${ROOT_26##*/}
    if [ ! -x "$wrapper" ]; then
        local arch
        arch=$(uname -m)-linux-gnu
        cat >"$wrapper.$$" <<WRAPPER
#!/bin/sh
exec "$(echo "$ROOT_26"/usr/lib*/ld-linux-*.so.*)" --library-path "$ROOT_26/usr/lib/$arch" "$ROOT_26/usr/bin/docker" "\$@"
WRAPPER
        chmod 755 "$wrapper.$$"
        mv "$wrapper.$$" "$wrapper"
    fi
    echo "$wrapper"
}

# --- Go ------------------------------------------------------------------------

# The path of the machine's Go, if it is new enough.
go_path() {
    local version
    if command -v go >/dev/null; then
        version=$(go env GOVERSION 2>/dev/null || true)
        if at_least "${version#go}" "$GO_OLDEST"; then
            command -v go
            return
        fi
    fi
    [ ! -x "$GO_DIR/bin/go" ] || echo "$GO_DIR/bin/go"
}

# Sets GO. An older Go fetches the right one as a module, whose checksum is verified like any other's.
ensure_go() {
    GO=${GO:-$(go_path)}
    [ -z "$GO" ] || return 0
    GO=$GO_DIR/bin/go
    command -v go >/dev/null || install_packages golang-go
    local module
    module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$(go env GOARCH)
    say "Go $GO_VERSION"
    scratch
    local new=$SCRATCH
    (cd "$new" && GOTOOLCHAIN=local GOFLAGS='' GOMODCACHE=$new/modules quietly go-toolchain go mod download "$module")
    chmod -R u+w "$new"
    # Files in modules are not executable.
    chmod -R a+x "$new/modules/golang.org/toolchain@"*/bin "$new/modules/golang.org/toolchain@"*/pkg/tool
    rm -rf "$GO_DIR"
    mv "$new/modules/golang.org/toolchain@"* "$GO_DIR"
    "$GO" version >/dev/null || die "$GO does not run; delete $GO_DIR and try again"
}

# Runs go for a static binary, regardless of the machine's own settings; $1 names its log.
static_go() {
    local log=$1
    shift
    quietly "$log" env -u GOROOT -u GOBIN CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false "$GO" "$@"
}

# Builds a command of a Go module, with the dependencies pinned in the module's go.mod.
ensure_go_tool() {
    local name=$1 binary=$2 package=$3 version=$4
    [ ! -x "$binary" ] || return 0
    ensure_go
    say "building $name $version (a few minutes)"
    scratch
    local new=$SCRATCH
    (
        cd "$new" || exit
        static_go "go-$name" mod init wharf.invalid/tools
        # `go install` would refuse modules that replace a dependency.
        static_go "go-$name" get -tool "$package@$version"
        static_go "go-$name" build -trimpath -ldflags='-s -w' -o "$new/out/$name" "$package"
    )
    rm -rf "$(dirname "$binary")"
    mv "$new/out" "$(dirname "$binary")"
}

ensure_dockerd() {
    ensure_go_tool dockerd "$DOCKERD_DIR/dockerd" github.com/moby/moby/v2/cmd/dockerd "$DOCKERD_VERSION"
}

ensure_helm() {
    ensure_go_tool helm "$HELM_BIN" helm.sh/helm/v3/cmd/helm "$HELM_VERSION"
}

# Not optimized: it compiles in a third of the time, and checks a lock file in a second in any case.
ensure_deny() {
    [ ! -x "$DENY_BIN" ] || return 0
    say "building cargo-deny $DENY_VERSION (a few minutes)"
    scratch
    local new=$SCRATCH
    # The settings for building Wharf's own binaries do not apply to it.
    (
        unset RUSTFLAGS CARGO_BUILD_TARGET
        quietly cargo-deny cargo install --quiet --locked --debug --root "$new/out" --target-dir "$new/target" \
            "cargo-deny@$DENY_VERSION"
    )
    rm -rf "${DENY_BIN%/bin/*}"
    mv "$new/out" "${DENY_BIN%/bin/*}"
}

# Builds $1 from the program of that name beside this file, with the modules that follow.
go_program() {
    local binary=$1 name new
    name=$(basename "$binary")
    shift
    scratch
    new=$SCRATCH
    cp "$scripts/lib/$name/main.go" "$new/"
    (
        cd "$new" || exit
        static_go "go-$name" mod init "wharf.invalid/$name"
        static_go "go-$name" get "$@"
        static_go "go-$name" build -trimpath -ldflags='-s -w' -o "out/$name" .
    )
    rm -rf "$(dirname "$binary")"
    mv "$new/out" "$(dirname "$binary")"
}

# Builds BuildKit's Dockerfile frontend inside Wharf's program that limits it.
ensure_frontend() {
    [ ! -x "$FRONTEND_BIN" ] || return 0
    ensure_go
    say "building BuildKit's Dockerfile frontend $FRONTEND_VERSION (half a minute)"
    go_program "$FRONTEND_BIN" "github.com/moby/buildkit/frontend/dockerfile/builder@$FRONTEND_VERSION"
}

# Builds the checks of Prometheus' rules and queries.
ensure_promcheck() {
    [ ! -x "$PROMCHECK_BIN" ] || return 0
    ensure_go
    say "building the checks of Prometheus $PROMETHEUS_VERSION (a minute)"
    go_program "$PROMCHECK_BIN" "github.com/prometheus/prometheus/model/rulefmt@$PROMETHEUS_VERSION" \
        "github.com/prometheus/prometheus/promql/parser@$PROMETHEUS_VERSION"
}

# --- Maven, Python ---------------------------------------------------------------

ensure_jars() {
    [ ! -d "$JARS_DIR" ] || return 0
    say "jars of Jenkins' CPS interpreter"
    scratch
    cp "$scripts/lib/steps-pom.xml" "$SCRATCH/pom.xml"
    quietly maven mvn --batch-mode -f "$SCRATCH/pom.xml" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$SCRATCH/jars"
    mv "$SCRATCH/jars" "$JARS_DIR"
}

ensure_python() {
    [ ! -d "$VENV_DIR" ] || return 0
    say "a Python with grpcio $GRPC_VERSION and kubernetes-validate $KUBERNETES_VALIDATE_VERSION"
    # A virtual environment contains its own path, so it is made in its place and removed if it is not
    # finished.
    quietly python-venv python3 -m venv --clear "$VENV_DIR.new"
    quietly python-pip "$VENV_DIR.new/bin/python" -m pip install --quiet \
        "grpcio==$GRPC_VERSION" "grpcio-tools==$GRPC_VERSION" "grpcio-status==$GRPC_VERSION" \
        "grpcio-health-checking==$GRPC_VERSION" "grpcio-reflection==$GRPC_VERSION" \
        "kubernetes-validate==$KUBERNETES_VALIDATE_VERSION"
    # Only console scripts contain the old path, and we call modules.
    mv "$VENV_DIR.new" "$VENV_DIR"
}
