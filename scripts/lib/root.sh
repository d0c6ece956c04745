# shellcheck shell=bash
# Sourced by the first process of an engine's and of a cluster's namespaces (lib/engine-init.sh,
# lib/kubernetes-init.sh): makes a root file system from the directory ROOT, and enters it. STATE has what belongs to
# this one alone.

# Writes this process's pid and start time to STATE.
tell_pid() {
    local stat fields
    # /proc is still the machine's, so these are the pid and start time as the machine sees them.
    read -r stat </proc/self/stat
    fields=${stat##*) }
    read -r -a fields <<<"$fields"
    echo "${stat%% *} ${fields[19]}" >"$STATE/pid"
}

# Makes the root, and lets ROOT be its path. One directory serves several, one after another and at the same time.
# Changes to it (for example by a container that mounts a path of its host) belong to this root only, and are removed
# with it. It must be a mount of its own for pivot_root; a plain chroot would not work, since runc's own pivot_root
# would fail.
make_root() {
    local directory
    mkdir -p "$STATE/root"
    mount -t tmpfs tmpfs "$STATE/root"
    mkdir "$STATE"/root/{upper,work,merged}
    mount -t overlay -o "lowerdir=$ROOT,upperdir=$STATE/root/upper,workdir=$STATE/root/work" \
        overlay "$STATE/root/merged"
    ROOT=$STATE/root/merged
    for directory in run tmp; do mount -t tmpfs -o mode=0755 tmpfs "$ROOT/$directory"; done
    chmod 1777 "$ROOT/tmp"
    mkdir -p "$ROOT/mnt/old"
    mount -t proc proc "$ROOT/proc"
    mount --rbind /sys "$ROOT/sys"
    mount --rbind /dev "$ROOT/dev"
}

# Enters it. What is mounted outside is gone.
enter_root() {
    cd "$ROOT" || return
    pivot_root . mnt/old
    umount -l /mnt/old
}
