#!/usr/bin/env bash
# The first process of an engine's mount, pid and network namespaces: makes the engine's root file system and
# becomes its pid 1. Started by lib/engines.sh with ROOT, STATE and BIN (a directory whose dockerd is used
# instead of the root's).
set -euo pipefail

# shellcheck source=scripts/lib/root.sh
. "${BASH_SOURCE[0]%/*}/root.sh"
tell_pid

# An engine serves many builds at once; a shell's limits are not meant for it.
ulimit -n "$(ulimit -Hn)"
ulimit -u unlimited 2>/dev/null || true

make_root
mkdir -p "$ROOT"/{run/engine,run/bin,etc/docker,var/lib/docker}
mount --bind "$STATE" "$ROOT/run/engine"
if [ -n "${WHARF_ENGINE_SIZE:-}" ]; then
    mount -t tmpfs -o "size=$WHARF_ENGINE_SIZE" tmpfs "$ROOT/var/lib/docker"
else
    mount --bind "$STATE/data" "$ROOT/var/lib/docker"
fi
[ -z "$BIN" ] || mount --bind "$BIN" "$ROOT/run/bin"
cp "$STATE/daemon.json" "$ROOT/etc/docker/daemon.json"

enter_root
export PATH=/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
unset DOCKER_HOST XDG_RUNTIME_DIR
ip link set lo up
exec tini-static -- dockerd --host unix:///run/engine/docker.sock --pidfile /run/docker.pid --exec-root /run/docker
