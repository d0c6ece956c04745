#!/usr/bin/env bash
# Boots the machine's systemd in namespaces of its own, on an overlay of the machine's files and without its
# services: a node for the unit. Started by unit.py with
#
#   FILES    a directory, /srv/wharf on the node
#   ENGINE   the directory of an engine's socket, /srv/engine on the node
#   SCRATCH  an empty directory
#   CGROUP   an empty cgroup of version 2, the root of the node's cgroups
#
# Everything ends with its first process.
set -euo pipefail

# The node's systemd must be able to enable controllers, if there are any. It may not while the root cgroup
# contains a process that it cannot move, so only this process joins, which becomes systemd.
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
# systemd's changes to the kernel's settings would affect the whole machine.
mount --bind "$node/proc/sys" "$node/proc/sys"
mount -o remount,bind,ro "$node/proc/sys"
mkdir -p "$node"/{srv/wharf,srv/engine,mnt/old,var/lib/systemd}
mount --bind "$FILES" "$node/srv/wharf"
mount --bind "$ENGINE" "$node/srv/engine"
# The path of the socket in the engine's packages.
ln -s /srv/engine/docker.sock "$node/run/docker.sock"

# Stands for the engine, which runs elsewhere.
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
