# shellcheck shell=bash disable=SC2154
# Sourced by scripts/env: private engines. Each has a directory of its own:
#
#   $RUN/NAME/kind  26 or 29            $RUN/NAME/docker.sock  its socket
#   $RUN/NAME/pid   pid 1 as seen here, $RUN/NAME/log          what it prints
#                   and its start time  $RUN/NAME/data         /var/lib/docker
#
# An engine lives in its own mount, pid and network namespaces (lib/engine-init.sh):
# when its pid 1 ends, all its processes end, and every mount with them.

# How long an engine may take to answer, and how long to stop before it is killed. It takes a second or two;
# on a loaded machine longer.
START_SECONDS=90
STOP_SECONDS=30

engine_names() {
    local file
    for file in "$RUN"/*/kind; do
        [ -e "$file" ] || continue
        basename "$(dirname "$file")"
    done
}

check_name() {
    case $1 in
    '' | [!a-z0-9]* | *[!a-z0-9-]*) die "an engine's name is lower-case letters, digits and \`-\`, not \`$1\`" ;;
    esac
    # Linux's sun_path holds 108 bytes with its final zero.
    [ ${#RUN} -le $((106 - ${#1} - 12)) ] || die "$RUN/$1/docker.sock is too long for a socket's path: set WHARF_RUN to a shorter one"
}

# The start time of a process in clock ticks since boot; together with the pid it identifies the process.
started() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field is the command in parentheses, which may contain anything.
    read -r -a stat <<<"${stat##*) }"
    # A zombie has ended, and waits for its parent.
    [ "${stat[0]}" != Z ] || return 1
    echo "${stat[19]}"
}

engine_pid() {
    local pid
    read -r pid _ <"$RUN/$1/pid"
    echo "$pid"
}

engine_alive() {
    local pid start
    [ -s "$RUN/$1/pid" ] || return 1
    read -r pid start <"$RUN/$1/pid"
    [ "$(started "$pid")" = "$start" ]
}

engine_answers() {
    curl --silent --fail --output /dev/null --max-time 5 --unix-socket "$1" http://engine/_ping
}

# The parent of an engine's cgroups: unique among all engines of the machine, so that it can be removed.
cgroup_parent() { printf '/wharf-engine%s' "$(tr / - <<<"$RUN/$1")"; }

# Whether nobody else shares an engine: any but `26` and `29`.
throw_away() { [ "$1" != 26 ] && [ "$1" != 29 ]; }

# Only one start or stop of an engine at a time. A stop removes the lock's file: a lock on a removed file
# excludes nobody.
lock_engine() {
    local file=$RUN/$1.lock
    until [ "$file" -ef /dev/fd/9 ]; do
        exec 9>"$file"
        flock 9
    done
}

engine_up() {
    local kind=${1:-} name=${2:-${1:-}} root state
    case $kind in
    26) root=$ROOT_26 ;;
    29) root=$ROOT_29 ;;
    *) die "up needs a kind of engine, 26 or 29, not \`$kind\`" ;;
    esac
    check_name "$name"
    throw_away "$name" || [ "$name" = "$kind" ] || die "the name $name belongs to the shared engine of the other kind"
    need_root "starting a private engine"
    lock_engine "$name"
    state=$RUN/$name
    if engine_alive "$name"; then
        [ "$(cat "$state/kind")" = "$kind" ] || die "engine $name is up and is a $(cat "$state/kind"): take it down first"
        say "engine $name is up: $state/docker.sock"
        return
    fi

    ensure_engine "$kind"
    ! throw_away "$name" || remove_state "$name"
    mkdir -p "$state/data"
    chmod 711 "$state"
    rm -f "$state/docker.sock" "$state/pid"
    echo "$kind" >"$state/kind"
    engine_config "$kind" "$name" >"$state/daemon.json"
    local bin=""
    [ "$kind" = 26 ] || bin=$DOCKERD_DIR
    # `unshare` remains the parent of pid 1, which is killed with it. It must not inherit our locks, nor the
    # caller's output (the reader of a pipe would wait for ever).
    ROOT=$root STATE=$state BIN=$bin setsid \
        unshare --mount --net --pid --fork --kill-child=KILL --propagation private -- \
        bash "$scripts/lib/engine-init.sh" </dev/null >"$state/log" 2>&1 9>&- &
    local parent=$! tries
    for ((tries = 0; tries < START_SECONDS * 10; tries++)); do
        if [ -S "$state/docker.sock" ] && engine_answers "$state/docker.sock" && engine_alive "$name"; then
            say "engine $name is up: $state/docker.sock"
            return
        fi
        kill -0 "$parent" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 15 "$state/log" >&2
    kill -KILL "$parent" 2>/dev/null || true
    die "engine $name ($kind) did not start; its log: $state/log"
}

# The differences from the engine's defaults. 29 uses the containerd store by default, but only for new data;
# both kinds set their store explicitly.
engine_config() {
    local containerd_store=false
    [ "$1" = 26 ] || containerd_store=true
    # A throw-away engine allows what Wharf must refuse.
    local builder='{}'
    ! throw_away "$2" || builder='{"entitlements": {"security-insecure": true}}'
    printf '{"features": {"containerd-snapshotter": %s}, "builder": %s, "cgroup-parent": "%s"}\n' \
        "$containerd_store" "$builder" "$(cgroup_parent "$2")"
}

engine_down() {
    local purge="" name pid
    if [ "${1:-}" = --purge ]; then
        purge=1
        shift
    fi
    name=${1:-}
    [ $# -eq 1 ] || die "down needs the name of one engine: $(engine_names | tr '\n' ' ')"
    check_name "$name"
    [ -e "$RUN/$name/kind" ] || {
        say "there is no engine $name"
        return
    }
    need_root "stopping a private engine"
    lock_engine "$name"
    if engine_alive "$name"; then
        pid=$(engine_pid "$name")
        # tini passes the signal to the engine, which stops its containers first.
        kill -TERM "$pid"
        if ! timeout "$STOP_SECONDS" tail --pid="$pid" --sleep-interval=0.05 -f /dev/null; then
            say "engine $name did not stop in $STOP_SECONDS s: killing it"
            kill -KILL "$pid" 2>/dev/null || true
            tail --pid="$pid" --sleep-interval=0.05 -f /dev/null
        fi
    fi
    rm -f "$RUN/$name/docker.sock" "$RUN/$name/pid"
    remove_cgroups "$(cgroup_parent "$name")"
    if [ -n "$purge" ] || throw_away "$name"; then remove_state "$name"; fi
    rm -f "$RUN/$name.lock"
    say "engine $name is down"
}

remove_state() {
    [ ! -e "$RUN/$1" ] || rm -rf --one-file-system "${RUN:?}/$1"
}

# A killed engine leaves empty cgroups of its steps. Version 1 has a tree for each controller, version 2 has
# one tree.
remove_cgroups() {
    local top
    for top in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [ -d "$top$1" ] || continue
        find "$top$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}

engine_status() {
    local name state
    for name in $(engine_names); do
        state=down
        ! engine_alive "$name" || state=up
        printf '%s %s %s %s\n' "$name" "$(cat "$RUN/$name/kind")" "$state" "$RUN/$name/docker.sock"
    done
}

engine_exec_net() {
    local name=${1:-}
    [ $# -ge 2 ] || die "exec-net needs an engine's name and a command"
    check_name "$name"
    engine_alive "$name" || die "engine $name is not up: scripts/env up 26|29 $name"
    need_root "entering an engine's network"
    shift
    exec nsenter --net="/proc/$(engine_pid "$name")/ns/net" -- "$@"
}

# Finds an engine for the demo. Prints to stderr which engines are not used, and why.
engine_find() {
    local name=${1:-demo} socket
    if [ -n "${DOCKER_HOST:-}" ]; then
        case $DOCKER_HOST in
        unix://*) set -- "${DOCKER_HOST#unix://}" ;;
        *)
            say "DOCKER_HOST=$DOCKER_HOST is not used: wharfd speaks to an engine over a Unix socket only"
            set --
            ;;
        esac
    else
        set -- /var/run/docker.sock
    fi
    for socket in "$@"; do
        if engine_usable "$socket"; then
            say "using the engine at $socket"
            printf 'WHARF_ENGINE=%s\nWHARF_ENGINE_NAME=\n' "$socket"
            return
        fi
    done
    [ "$(id -u)" -eq 0 ] || die "no engine to use, and a private one needs root (namespaces, mounts): run as root, or start Docker Engine 26.1 or later and set DOCKER_HOST=unix://SOCKET"
    say "starting a private engine"
    engine_up 26 "$name"
    printf 'WHARF_ENGINE=%s\nWHARF_ENGINE_NAME=%s\n' "$RUN/$name/docker.sock" "$name"
}

# Whether an engine answers at a socket and is new enough; prints why not.
engine_usable() {
    local answer version
    if [ ! -S "$1" ]; then
        say "no engine at $1"
        return 1
    fi
    if [ ! -r "$1" ] || [ ! -w "$1" ]; then
        say "the engine at $1 is not used: you may not open its socket"
        return 1
    fi
    if ! answer=$(curl --silent --fail --max-time 5 --unix-socket "$1" http://engine/version); then
        say "the engine at $1 is not used: nothing answers there"
        return 1
    fi
    # Without jq, which may not be installed yet.
    version=$(sed -n 's/.*"ApiVersion":"\([0-9.]*\)".*/\1/p' <<<"$answer")
    if [ -z "$version" ]; then
        say "the server at $1 is not used: it is not a Docker Engine"
        return 1
    fi
    if ! at_least "$version" "$OLDEST_API"; then
        say "the engine at $1 is not used: its API is $version, and Wharf needs $OLDEST_API (Engine 26.1)"
        return 1
    fi
}
