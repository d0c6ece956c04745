#!/usr/bin/env bash
# The first process of an engine's mount, pid and network namespaces: makes the
# root that the engine sees and becomes its pid 1. Started by lib/engines.sh with
# ROOT, STATE and BIN (a directory whose dockerd is used instead of the root's).
set -euo pipefail

# /proc is still the machine's, so these are the pid and start time that it sees.
read -r stat </proc/self/stat
fields=${stat##*) }
read -r -a fields <<<"$fields"
echo "${stat%% *} ${fields[19]}" >"$STATE/pid"

# An engine serves many builds at once; a shell's limits are not meant for it.
ulimit -n "$(ulimit -Hn)"
ulimit -u unlimited 2>/dev/null || true

# pivot_root wants a mount point; a plain chroot would not do, since runc's own
# pivot_root would then fail.
mount --bind "$ROOT" "$ROOT"
# What is written below these is this engine's alone: one root serves several.
for directory in mnt run tmp root etc/docker; do
    mkdir -p "$ROOT/$directory"
    mount -t tmpfs -o mode=0755 tmpfs "$ROOT/$directory"
done
mkdir -p "$ROOT"/{mnt/old,run/engine,run/bin,var/lib/docker}
mount -t proc proc "$ROOT/proc"
mount --rbind /sys "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
mount --bind "$STATE" "$ROOT/run/engine"
mount --bind "$STATE/data" "$ROOT/var/lib/docker"
[ -z "$BIN" ] || mount --bind "$BIN" "$ROOT/run/bin"
cp "$STATE/daemon.json" "$ROOT/etc/docker/daemon.json"

cd "$ROOT"
pivot_root . mnt/old
umount -l /mnt/old

export PATH=/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
unset DOCKER_HOST XDG_RUNTIME_DIR
ip link set lo up
exec tini-static -- dockerd --host unix:///run/engine/docker.sock --pidfile /run/docker.pid --exec-root /run/docker
