# shellcheck shell=bash disable=SC2016,SC2154
# Sourced by run: engines in wharfd's pod, on a node that has containerd alone for them; what steps reach.

# The registry, at an address that pods reach, too.
near=10.213.255.1:5000
# A metadata service as clouds have it: another address of the node.
on_node ip address add 169.254.169.254/32 dev lo
# The node's other engine forbids pods to speak with one another.
on_node iptables --insert FORWARD --in-interface wharfpods0 --jump ACCEPT
# Two trust groups, which share the pod's network. `icc` is on, so that nothing but the firewall keeps steps apart. How full
# the machine's disk is says nothing of the chart.
bundled=(--set engine.image.repository=example.invalid/engine --set engine.image.tag=test
    --set engine.daemon.insecure-registries="{$near}" --set engine.daemon.icc=true
    --set engine.groups\[0\].name=default --set engine.groups\[1\].name=other
    --set serve\[0\].namespaces=jenkins --set serve\[1\].namespaces=others --set serve\[1\].engine=other
    --set config=$'[disk]\nlow = "0%"\n[[policy]]\nname = "all"\njobs = ["pods:*"]\npull = ["*"]\npush = ["*"]\nadd = ["'"${near%:*}:5001\"]")
# A host of the site's, of which a policy lets `ADD` fetch. It redirects to an address that nobody grants, that of the registry in
# the network of pods.
cat >"$work/redirect.py" <<'PYTHON'
import http.server
class Redirect(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", "http://10.214.0.1:5000/v2/")
        self.end_headers()
    do_HEAD = do_GET
http.server.ThreadingHTTPServer(("", 5001), Redirect).serve_forever()
PYTHON
"$env" exec-net "$engine" "$WHARF_PYTHON" "$work/redirect.py" 2>"$work/redirect.log" &
redirect=$!

# Builds on the base image what the input says, without a cache.
build_step='mkdir -p /home/step && cd /home/step && cat >Dockerfile &&
    wharf build --progress=plain --build-arg NONCE="$(cat /proc/sys/kernel/random/uuid)" .'
step() { in_pod_with "$1" "$build_step" <<<"FROM $near/base:1"$'\nARG NONCE\nRUN '"$2"; }
# Whether a step connects to all of the addresses (ADDRESS:PORT); whether each refuses it at once.
reaches() { step one "for to in $*; do nc -w 5 \${to%:*} \${to##*:} </dev/null || exit 1; done"; }
refuses() {
    step one "for to in $*; do timeout 5 nc \${to%:*} \${to##*:} </dev/null; done 2>&1 | grep 'No route to host' | wc -l | grep -x $#"
}
# Whether an `ADD` brings what the host redirects to: the registry's greeting.
redirected() {
    in_pod_with one 'mkdir -p /home/add && cd /home/add && cat >Dockerfile && wharf build --progress=plain --no-cache .' \
        <<<"FROM $near/base:1"$'\n'"ADD http://${near%:*}:5001/file /file"$'\nRUN grep -x "{}" /file'
}
not_redirected() { local said; said=$(redirected 2>&1) && return 1; grep -F 'is redirected: policy `all` does not let' <<<"$said"; }
# A step of the pod two that waits for somebody; its address.
listen() {
    in_pod two ': >/home/step.log'
    step two 'echo "listens at $(ip -4 address show dev eth0)" && timeout 60 nc -l -p 7000' >"$work/listen.log" 2>&1 &
    listener=$!
    await listening >/dev/null
}
listening() { grep -oE '198\.18\.[0-9]+\.[0-9]+/' "$work/listen.log" | head -n 1 | grep -oE '[0-9.]+'; }
in_engine() { kc -n wharf exec daemonset/wharfd --container "engine-$1" -- "${@:2}"; }
bundled_holds_nothing() {
    ! in_engine "$1" docker --host=unix:///run/engine/docker.sock images --format '{{.Repository}}' |
        grep '^wharf\.invalid/' | grep -v '^[^/]*/[^/]*/frontend/'
}

# --- without the firewall ---------------------------------------------------------------

check "helm installs the chart with mode bundled, without a firewall" \
    helm install wharf "$chart" "${bundled[@]}" --set firewall.enabled=false
check "its pods are ready" rolled_out
check "the kubelet takes the driver" await registered
pod jenkins one "$good" >/dev/null
pod jenkins two "$good" >/dev/null
pod others three "$good" >/dev/null
check "an agent under restricted gets its volume" ready one
check "a second one, too" ready two
in_pod two 'nc -ll -p 7001 -e true >/dev/null 2>&1 &'
# The API server, the kubelet, the metadata service, the node's address in the network of pods, another pod.
closed=(10.213.255.1:16443 10.213.255.1:20250 169.254.169.254:5000 10.214.0.1:5000
    "$(kc -n jenkins get pod two -o jsonpath='{.status.podIP}'):7001")
check "without it a step reaches the node, the API server, the kubelet, the metadata service and another pod" \
    reaches "$near" "${closed[@]}"
check "but an ADD follows no redirect there" not_redirected
check "wharfd knows of no firewall" in_pod one 'wharf info | grep -Fx " Firewall: none known"'
listen
check "and a step of another build" reaches "$(listening):7000"
check_job "which had somebody" "$listener"

# --- with it --------------------------------------------------------------------------------

check "helm turns the firewall on" helm upgrade wharf "$chart" "${bundled[@]}" --set firewall.allow="{$near,${near%:*}:5001}"
check "wharfd and its engines are replaced" rolled_out
check "the pods' sockets work again" await in_pod one 'wharf info'
check "wharfd knows of the firewall" in_pod one 'wharf info | grep -Fx " Firewall: of wharfd"'
check "a step reaches the registry that is granted" reaches "$near"
check "and not the node, the API server, the kubelet, the metadata service and another pod" refuses "${closed[@]}"
# The kernel ends a step before its engine.
scores() { in_engine default sh -c 'cat /proc/$(pidof dockerd)/oom_score_adj' && step one 'echo "score $(cat /proc/self/oom_score_adj)"'; }
steps_go_first() { scores 2>&1 | tee /dev/stderr | awk '/^[0-9-]+$/ {engine = $1} / score [0-9]+$/ {step = $NF} END {exit !(step > engine)}'; }
check "a step goes before its engine when memory is short" steps_go_first
check "nor does an ADD follow a redirect there" not_redirected
kill "$redirect"
listen
check "nor a step of another build" refuses "$(listening):7000"
in_pod two 'kill -INT $(pidof wharf)'
wait "$listener" || true
in_engine default kill -TERM 1 || true
check "an engine that ends is started again" await in_pod one 'wharf info | grep -F "State: up"'
check "and steps are still refused" refuses "${closed[2]}"

# A group whose engine cannot start.
check "helm adds a group whose engine does not start" helm upgrade wharf "$chart" "${bundled[@]}" --set firewall.allow="{$near}" \
    --set engine.groups\[2\].name=broken --set engine.groups\[2\].daemon.storage-driver=none --set gracePeriodSeconds=121
does_not_start() { kc -n wharf get pods -o jsonpath='{.items[*].status.initContainerStatuses[?(@.name=="engine-broken")].restartCount}' | grep '[1-9]'; }
check "it is tried again and again" await does_not_start
check "the others work" await in_pod one 'wharf info | grep -F "State: up"'
check "helm takes it away" helm upgrade wharf "$chart" "${bundled[@]}" --set firewall.allow="{$near}"
check "the pods are ready" rolled_out
check "and their sockets work again" await in_pod one 'wharf info'

# --- the work of agents ----------------------------------------------------------------------

check "an agent builds a Dockerfile and pushes the image" in_pod_with one \
    'mkdir -p /home/app && cd /home/app && echo hello >file && cat >Dockerfile && wharf build --progress=plain -t '"$near"'/team/bundled:1 --push .' \
    <<<"FROM $near/base:1"$'\nCOPY file /file\nRUN grep hello /file'
in_registry() { inside_engine curl --silent --fail "http://$near/v2/team/bundled/tags/list" | grep -F '"1"'; }
check "the registry has the image" in_registry
check "the second pod sees nothing of it" in_pod two '! wharf images | grep team'
other() { kc -n others exec three --container agent -- sh -c "export HOME=/home; $1"; }
check "a pod of the other trust group has the other engine" other 'wharf info | grep -F "Your engine: other"'
check "which has nothing of the first" bundled_holds_nothing other
check "helm test passes" helm_test
step one 'echo begun && sleep 5' >"$work/slow.log" 2>&1 &
slow=$!
check "a build runs" await grep -E '^#[0-9]+ [0-9.]+ begun' "$work/slow.log"
check "a changed value makes new pods" helm upgrade wharf "$chart" --reuse-values --set settings.max_builds=3
check "wharfd and its engines are replaced again" rolled_out
check_job "the build that ran is not lost" "$slow"
check "the images are still there" await in_pod one 'wharf images | grep team/bundled'
delete_pods one two
check "the engine holds nothing of theirs" bundled_holds_nothing default
check "helm uninstalls it" helm uninstall wharf --wait --timeout=120s
check "nothing of it is left in the cluster" await nothing_left
check "the node keeps the engines' storage" on_node test -s /var/lib/wharf-engines/default/engine-id
check "and no interface of theirs" on_node sh -c '! ip link show wharf0 2>/dev/null'
on_node sh -c 'rm -rf /var/lib/wharf/* /var/lib/wharf-engines/*'
