#!/usr/bin/env bash
# Boots the machine's systemd in namespaces of its own, on an overlay of the machine's files and with none of
# its services: a node for the unit to run on. Started by unit.py with
#
#   FILES    a directory that the node has as /srv/wharf
#   ENGINE   the directory of an engine's socket, which the node has as /srv/engine
#   SCRATCH  an empty directory
#   CGROUP   an empty cgroup of version 2, which is the node's root
#
# All of it ends with its first process.
set -euo pipefail

# The node's systemd hands out controllers, if there are any, which it may not while the root of
# its cgroups has a process that it cannot move: so nothing joins but this one, which becomes systemd.
if [ -n "${CGROUP:-}" ]; then
    echo 0 >"$CGROUP/cgroup.procs"
    exec env -u CGROUP unshare --cgroup "$0"
fi

mount -t tmpfs -o mode=0755 tmpfs "$SCRATCH"
mkdir "$SCRATCH"/{upper,work,node}
node=$SCRATCH/node
mount -t overlay overlay -o "lowerdir=/,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" "$node"
mount -t proc proc "$node/proc"
mount -t sysfs -o ro sysfs "$node/sys"
mount --rbind /dev "$node/dev"
for directory in run tmp var/lib root home mnt srv etc/systemd/system lib/systemd/system/sysinit.target.wants; do
    mkdir -p "$node/$directory"
    mount -t tmpfs -o mode=0755 tmpfs "$node/$directory"
done
mount -t cgroup2 cgroup2 "$node/sys/fs/cgroup"
# What systemd changes of the kernel is not the node's alone.
mount --bind "$node/proc/sys" "$node/proc/sys"
mount -o remount,bind,ro "$node/proc/sys"
mkdir -p "$node"/{srv/wharf,srv/engine,mnt/old,var/lib/systemd}
mount --bind "$FILES" "$node/srv/wharf"
mount --bind "$ENGINE" "$node/srv/engine"
# Where packages have the socket.
ln -s /srv/engine/docker.sock "$node/run/docker.sock"

# It stands for the engine, which runs elsewhere.
cat >"$node/etc/systemd/system/docker.service" <<'UNIT'
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=true
UNIT
printf '[Unit]\nDefaultDependencies=no\n' >"$node/etc/systemd/system/node.target"
for unit in systemd-udevd-control.socket systemd-udevd-kernel.socket; do
    ln -s /dev/null "$node/etc/systemd/system/$unit"
done

cd "$node"
pivot_root . mnt/old
umount -l /mnt/old
exec env -i container=node PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=node.target --show-status=no
