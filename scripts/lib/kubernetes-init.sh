#!/usr/bin/env bash
# The first process of a cluster's mount and pid namespaces, in an engine's network: makes the node's root file system,
# and starts etcd, the control plane, containerd and the kubelet. Started by lib/kubernetes.sh with ROOT, STATE,
# ENGINE_DIR, BIN, CNI and IP.
set -euo pipefail

# shellcheck source=scripts/lib/root.sh
. "${BASH_SOURCE[0]%/*}/root.sh"
tell_pid
ulimit -n "$(ulimit -Hn)"

# The root of the private engines has containerd, runc and ip.
make_root
mkdir -p "$ROOT"/{run/engine,run/cluster,run/kubernetes,run/cni,etc/cni/net.d,etc/containerd} \
    "$ROOT"/var/lib/{etcd,kubelet,containerd,wharf,wharf-engines} \
    "$STATE"/state/{etcd,kubelet,containerd,wharf,wharf-engines}
mount --bind "$STATE" "$ROOT/run/cluster"
mount --bind "$ENGINE_DIR" "$ROOT/run/engine"
mount --bind "$BIN" "$ROOT/run/kubernetes"
mount --bind "$CNI" "$ROOT/run/cni"
for directory in etcd kubelet containerd wharf wharf-engines; do
    mount --bind "$STATE/state/$directory" "$ROOT/var/lib/$directory"
done
enter_root
# Mounts of the kubelet's have to reach containerd's pods.
mount --make-rshared /
ip address replace "$IP/32" dev lo

export PATH=/run/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
pki=/run/cluster/pki
start() {
    local name=$1
    shift
    nice -n 5 "$@" >"/run/cluster/log/$name" 2>&1 &
}

start etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
    --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
    --initial-cluster default=http://127.0.0.1:12380
start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:12379 --secure-port=16443 --advertise-address="$IP" \
    --service-cluster-ip-range=10.213.0.0/24 --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --client-ca-file=$pki/ca.crt --allow-privileged=true \
    --tls-cert-file=$pki/apiserver.crt --tls-private-key-file=$pki/apiserver.key \
    --service-account-key-file=$pki/sa.pub --service-account-signing-key-file=$pki/sa.key \
    --service-account-issuer=https://kubernetes.default.svc \
    --kubelet-client-certificate=$pki/apiserver-kubelet.crt --kubelet-client-key=$pki/apiserver-kubelet.key \
    --kubelet-certificate-authority=$pki/ca.crt --kubelet-preferred-address-types=InternalIP

cat >/etc/containerd/config.toml <<'CONFIG'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "wharf.invalid/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
CONFIG
# Pods reach the node and one another: there is no address translation and no proxy of services.
cat >/etc/cni/net.d/10-wharf.conflist <<'CONFIG'
{"cniVersion": "0.4.0", "name": "wharf", "plugins": [
 {"type": "bridge", "bridge": "wharfpods0", "isDefaultGateway": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.214.0.0/24"}]]}}]}
CONFIG
start containerd containerd
cat >/run/kubelet.yaml <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
port: 20250
healthzPort: 20248
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
makeIPTablesUtilChains: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
resolvConf: ""
# The machine's disk is others', too: the kubelet removes no image, and forgets at once that space was short.
evictionHard: {memory.available: 100Mi, nodefs.available: 200Mi, imagefs.available: 200Mi, nodefs.inodesFree: 1%}
evictionPressureTransitionPeriod: 5s
imageGCHighThresholdPercent: 100
CONFIG
for ((tries = 0; tries < 200; tries++)); do
    ctr version >/dev/null 2>&1 && kubectl --kubeconfig $pki/admin.kubeconfig get --raw /readyz >/dev/null 2>&1 && break
    sleep 0.5
done
start controller-manager kube-controller-manager --kubeconfig=$pki/controller-manager.kubeconfig --leader-elect=false \
    --secure-port=20257 --bind-address=127.0.0.1 --use-service-account-credentials=true \
    --service-account-private-key-file=$pki/sa.key --root-ca-file=$pki/ca.crt
start scheduler kube-scheduler --kubeconfig=$pki/scheduler.kubeconfig --leader-elect=false --secure-port=20259 \
    --bind-address=127.0.0.1
start kubelet kubelet --config=/run/kubelet.yaml --kubeconfig=$pki/kubelet.kubeconfig --hostname-override=wharf-node \
    --node-ip="$IP"
# As pid 1 it reaps whatever the containers leave.
while :; do wait -n || sleep 1; done
