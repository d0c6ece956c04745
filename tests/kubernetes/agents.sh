# shellcheck shell=bash disable=SC2154
# Sourced by run: agents' pods, and what is asked of them.

# shellcheck disable=SC2034 # its readers are host.sh and bundled.sh
good='        readOnly: true'
# pod NAMESPACE NAME VOLUME_LINES: a pod of an agent; the lines belong to the volume's `csi`.
pod() {
    kc apply -f - <<POD
apiVersion: v1
kind: Pod
metadata: {name: $2, namespace: $1}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - &container
      name: agent
      image: example.invalid/agent:1
      command: [sleep, "3600"]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts:
        - {name: wharf, mountPath: /run/wharf, readOnly: true}
        - {name: home, mountPath: /home}
    - {<<: *container, name: second}
  volumes:
    - {name: home, emptyDir: {}}
    - name: wharf
      csi:
        driver: csi.wharf.dev
$3
POD
}
in_pod() { kc -n jenkins exec "$1" --container "${3:-agent}" -- sh -c "export HOME=/home JOB_NAME=victim BUILD_NUMBER=1; $2"; }
# The same, with an input.
in_pod_with() { kc -n jenkins exec --stdin "$1" --container agent -- sh -c "export HOME=/home; $2"; }
ready() { kc -n jenkins wait --for=condition=Ready "pod/$1" --timeout=90s; }
uid() { kc -n jenkins get pod "$1" -o jsonpath='{.metadata.uid}'; }
event() { kc -n "$1" get events --field-selector "involvedObject.name=$2" -o jsonpath='{.items[*].message}' | grep -F -- "$3"; }
# Whether the engine has any image of a namespace of Wharf's.
engine_holds() { docker images --format '{{.Repository}}' | grep '^wharf\.invalid/' | grep -v '^[^/]*/[^/]*/frontend/'; }
holds_nothing() { ! engine_holds; }
gone() { ! kc -n jenkins get pod "$1"; }

rolled_out() { kc -n wharf rollout status daemonset/wharfd --timeout=180s; }
# Whether the namespace admits deploy/examples/agent.yaml, completed as Jenkins' plugin does it.
admits_example() {
    kc --namespace jenkins create --dry-run=server --validate=strict -f - < <(
        sed -e 's/^metadata:$/&\n  name: example/' -e 's/^    - name: jnlp$/&\n      image: example.invalid\/agent:1/' \
            "$root/deploy/examples/agent.yaml"
    ) 2>&1
}
registered() { kc get csinode wharf-node -o jsonpath='{.spec.drivers[*].name}' | grep -q 'csi\.wharf\.dev'; }
config_has() { kc -n wharf get configmap wharfd -o jsonpath='{.data.wharfd\.toml}' | grep -Fx -- "$1"; }
delete_pods() {
    local name
    kc -n jenkins delete pod "$@" --wait=false >/dev/null
    kc -n others delete pod --all --wait=false >/dev/null
    for name in "$@"; do check "the pod $name goes" await gone "$name"; done
}
# The pod is there for its log if it fails.
helm_test() { helm test wharf --timeout=120s || { kc -n wharf logs wharfd-test --all-containers; false; }; }
# What the chart made, the hooks of its test included.
nothing_left() {
    local left
    left=$(kc get daemonset,pod,configmap,serviceaccount,networkpolicy,csidriver,clusterrole,clusterrolebinding \
        --all-namespaces -o name | grep -i wharf || true)
    left+=$(on_node ls /var/lib/kubelet/plugins_registry | grep wharf || true)
    [ -z "$left" ] || { echo "$left"; false; }
}
