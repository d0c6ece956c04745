#!/usr/bin/env bash
# The first process of an engine's mount, pid and network namespaces: makes the engine's root file system and
# becomes its pid 1. Started by lib/engines.sh with ROOT, STATE and BIN (a directory whose dockerd is used
# instead of the root's).
set -euo pipefail

# /proc is still the machine's, so these are the pid and start time as the machine sees them.
read -r stat </proc/self/stat
fields=${stat##*) }
read -r -a fields <<<"$fields"
echo "${stat%% *} ${fields[19]}" >"$STATE/pid"

# An engine serves many builds at once; a shell's limits are not meant for it.
ulimit -n "$(ulimit -Hn)"
ulimit -u unlimited 2>/dev/null || true

# One root serves several engines, one after another and at the same time. Changes to it (for example by a
# container that mounts a path of its host) belong to this engine only, and are removed with it. It must be a
# mount of its own for pivot_root; a plain chroot would not work, since runc's own pivot_root would fail.
mkdir -p "$STATE/root"
mount -t tmpfs tmpfs "$STATE/root"
mkdir "$STATE"/root/{upper,work,merged}
mount -t overlay -o "lowerdir=$ROOT,upperdir=$STATE/root/upper,workdir=$STATE/root/work" overlay "$STATE/root/merged"
ROOT=$STATE/root/merged
for directory in run tmp; do mount -t tmpfs -o mode=0755 tmpfs "$ROOT/$directory"; done
chmod 1777 "$ROOT/tmp"
mkdir -p "$ROOT"/{mnt/old,run/engine,run/bin,etc/docker,var/lib/docker}
mount -t proc proc "$ROOT/proc"
mount --rbind /sys "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
mount --bind "$STATE" "$ROOT/run/engine"
if [ -n "${WHARF_ENGINE_SIZE:-}" ]; then
    mount -t tmpfs -o "size=$WHARF_ENGINE_SIZE" tmpfs "$ROOT/var/lib/docker"
else
    mount --bind "$STATE/data" "$ROOT/var/lib/docker"
fi
[ -z "$BIN" ] || mount --bind "$BIN" "$ROOT/run/bin"
cp "$STATE/daemon.json" "$ROOT/etc/docker/daemon.json"

cd "$ROOT"
pivot_root . mnt/old
umount -l /mnt/old

export PATH=/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
unset DOCKER_HOST XDG_RUNTIME_DIR
ip link set lo up
exec tini-static -- dockerd --host unix:///run/engine/docker.sock --pidfile /run/docker.pid --exec-root /run/docker
