# shellcheck shell=bash disable=SC2154
# Sourced by scripts/env: a Kubernetes of one node, with a real kubelet, beside a throw-away engine and in its network.
# Its directory:
#
#   $RUN/cluster-ENGINE/pid        pid 1 as seen here, and its start time
#   $RUN/cluster-ENGINE/pki        certificates; admin.kubeconfig is the administrator's
#   $RUN/cluster-ENGINE/log        what each of its programs prints
#   $RUN/cluster-ENGINE/state      what the node has below /var/lib
#
# All of it runs in one mount and pid namespace (lib/kubernetes-init.sh), so all of it ends with its pid 1. On the node,
# /run/engine is the engine's directory. The kubelet changes settings of the kernel, which `cluster-down` puts back.

# On the engine's loopback, where nobody else has an address like it.
CLUSTER_IP=10.213.255.1
CLUSTER_SECONDS=180
KUBERNETES_PROGRAMS="etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl"
CLUSTER_SYSCTLS="vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"

# Builds Kubernetes from its module. Its own go.mod says where the parts are that it replaces.
ensure_kubernetes() {
    [ ! -x "$KUBERNETES_DIR/kubelet" ] || return 0
    ensure_go
    say "building Kubernetes $KUBERNETES_VERSION (six minutes)"
    scratch
    local new=$SCRATCH version=${KUBERNETES_VERSION#v} module program package flags=''
    (
        cd "$new" || exit
        static_go go-kubernetes mod init wharf.invalid/kubernetes
        static_go go-kubernetes mod edit -go=1.24.0 -godebug=default=go1.24 \
            -require="k8s.io/kubernetes@$KUBERNETES_VERSION"
        static_go go-kubernetes mod download "k8s.io/kubernetes@$KUBERNETES_VERSION"
        module=$("$GO" env GOMODCACHE)/k8s.io/kubernetes@$KUBERNETES_VERSION/go.mod
        while read -r module; do
            static_go go-kubernetes mod edit -replace="$module=$module@v0.${version#*.}"
        done < <(sed -n 's|^\t*\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$module")
        for module in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
            flags+=" -X $module.gitVersion=$KUBERNETES_VERSION -X $module.gitMajor=${version%%.*}"
            module+=.gitMinor=$(cut -d . -f 2 <<<"$version")
            flags+=" -X $module"
        done
        for program in $KUBERNETES_PROGRAMS; do
            package=k8s.io/kubernetes/cmd/$program
            [ "$program" != etcd ] || package=go.etcd.io/etcd/server/v3
            # The versions are those that Kubernetes requires, etcd's too.
            static_go "go-$program" build -mod=mod -trimpath -tags selinux,notest,grpcnotrace -ldflags "-s -w$flags" \
                -o "out/$program" "$package"
        done
    )
    rm -rf "$KUBERNETES_DIR"
    mv "$new/out" "$KUBERNETES_DIR"
}

# The plugins that connect pods; the package is not installed.
ensure_cni() {
    [ ! -x "$CNI_DIR/bridge" ] || return 0
    say "unpacking containernetworking-plugins"
    scratch
    apt_update
    (cd "$SCRATCH" && quietly apt-cni apt-get -q -o APT::Sandbox::User=root download containernetworking-plugins)
    dpkg-deb -x "$SCRATCH"/*.deb "$SCRATCH/tree"
    rm -rf "$CNI_DIR"
    mv "$SCRATCH/tree/usr/lib/cni" "$CNI_DIR"
}

cluster_alive() {
    local pid start
    [ -s "$RUN/cluster-$1/pid" ] || return 1
    read -r pid start <"$RUN/cluster-$1/pid"
    [ "$(started "$pid")" = "$start" ]
}

cluster_kubectl() {
    nsenter --net="/proc/$(engine_pid "$1")/ns/net" -- \
        "$KUBERNETES_DIR/kubectl" --kubeconfig "$RUN/cluster-$1/pki/admin.kubeconfig" "${@:2}"
}

cluster_up() {
    local name=${1:-} state tries
    [ $# -eq 1 ] || die "cluster-up needs the name of a throw-away engine: scripts/env up 26 NAME"
    check_name "$name"
    engine_alive "$name" || die "engine $name is not up: scripts/env up 26 $name"
    throw_away "$name" || die "a cluster needs a throw-away engine, and $name is shared"
    ! cluster_alive "$name" || die "the cluster of $name is up: scripts/env cluster-down $name"
    need_root "starting a cluster"
    if [ ! -x "$KUBERNETES_DIR/kubelet" ] || [ ! -x "$CNI_DIR/bridge" ]; then die "run scripts/env setup kubernetes"; fi
    # The kubelet's cgroups have one name for the whole machine.
    exec 7>"$CACHE/cluster.lock"
    flock -n 7 || die "another cluster is up on this machine"
    state=$RUN/cluster-$name
    rm -rf --one-file-system "$state"
    mkdir -p "$state"/{pki,log,state,root}
    # shellcheck disable=SC2086
    sysctl -e $CLUSTER_SYSCTLS >"$state/sysctls" 2>/dev/null || true
    cluster_certificates "$state/pki"
    # `unshare` holds the lock for as long as the cluster runs.
    ROOT=$ROOT_26 STATE=$state ENGINE_DIR=$RUN/$name BIN=$KUBERNETES_DIR CNI=$CNI_DIR IP=$CLUSTER_IP setsid \
        nsenter --net="/proc/$(engine_pid "$name")/ns/net" -- \
        unshare --mount --pid --fork --kill-child=KILL --propagation private -- \
        bash "$scripts/lib/kubernetes-init.sh" </dev/null >"$state/log/init" 2>&1 &
    for ((tries = 0; tries < CLUSTER_SECONDS * 2; tries++)); do
        if cluster_kubectl "$name" wait --for=condition=Ready node/wharf-node --timeout=5s >/dev/null 2>&1 &&
            cluster_kubectl "$name" -n default get serviceaccount default >/dev/null 2>&1; then
            say "the cluster of $name is up"
            return
        fi
        [ "$tries" -lt 20 ] || cluster_alive "$name" || break
        sleep 0.5
    done
    tail -n 5 "$state"/log/* >&2
    cluster_down "$name"
    die "the cluster of $name did not start"
}

cluster_down() {
    local name=${1:-} state pid
    check_name "$name"
    state=$RUN/cluster-$name
    need_root "stopping a cluster"
    if cluster_alive "$name"; then
        read -r pid _ <"$state/pid"
        kill -KILL "$pid"
        tail --pid="$pid" --sleep-interval=0.05 -f /dev/null
    fi
    remove_cgroups /kubepods
    [ ! -s "$state/sysctls" ] || sysctl -q -p "$state/sysctls" >/dev/null 2>&1 || true
    [ ! -e "$state" ] || rm -rf --one-file-system "$state"
    say "the cluster of $name is down"
}

# A certificate for each of the cluster's programs, and a kubeconfig for each that calls the API server.
cluster_certificates() {
    local pki=$1 name subject
    (
        cd "$pki" || exit
        umask 077
        quietly openssl openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=wharf-test -keyout ca.key \
            -out ca.crt -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
        while read -r name subject; do
            quietly openssl openssl req -newkey rsa:2048 -nodes -subj "$subject" -keyout "$name.key" -out "$name.csr"
            printf '%s\n' 'keyUsage=critical,digitalSignature,keyEncipherment' \
                'extendedKeyUsage=clientAuth,serverAuth' \
                "subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,DNS:wharf-node,IP:127.0.0.1,IP:10.213.0.1,IP:$CLUSTER_IP" >ext
            quietly openssl openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
                -out "$name.crt" -extfile ext
            cat >"$name.kubeconfig" <<KUBECONFIG
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:16443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$name.crt"), client-key-data: $(base64 -w0 "$name.key")}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
KUBECONFIG
        done <<'SUBJECTS'
apiserver /CN=kube-apiserver
admin /O=system:masters/CN=admin
apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
controller-manager /CN=system:kube-controller-manager
scheduler /CN=system:kube-scheduler
kubelet /O=system:nodes/CN=system:node:wharf-node
SUBJECTS
        quietly openssl openssl genrsa -out sa.key 2048
        quietly openssl openssl rsa -in sa.key -pubout -out sa.pub
    )
}
