# shellcheck shell=bash disable=SC2016,SC2154
# Sourced by run: the node's own engine; what pods may and may not do; a restart; the end.

check "helm installs the chart with mode host" helm install wharf "$chart" --set engine.mode=host
check "its pods are ready" rolled_out
check "the kubelet takes the driver" await registered

pod jenkins one "$good" >/dev/null
pod jenkins two "$good" >/dev/null
check "an agent under restricted gets its volume" ready one
check "a second one, too" ready two
check "the client comes with the volume" in_pod one 'wharf version && ls -l /run/wharf'
check "the agent is its pod" in_pod one "wharf info | grep -F 'pods:jenkins#$(uid one)'"
check "it builds a Dockerfile and pushes the image" in_pod one \
    'mkdir -p /home/app && cd /home/app && echo hello >file &&
     printf "FROM 127.0.0.1:5000/base:1\nCOPY file /file\nRUN grep hello /file && echo \$(id -u) >/who\n" >Dockerfile &&
     wharf build --progress=plain -t 127.0.0.1:5000/team/app:1 --push .'
check "the registry has the image" inside_engine curl --silent --fail http://127.0.0.1:5000/v2/team/app/manifests/1
check "its second container sees it" in_pod one 'wharf images | grep team/app' second
check "the second pod sees nothing of it" in_pod two '[ -z "$(wharf images -q)" ]'
check "it can name nothing of it" in_pod two \
    "wharf --namespace 'jenkins#$(uid one)' images 2>&1 | grep 'is not yours'"
check "the volume is read-only" in_pod one '! touch /run/wharf/file && ! rm /run/wharf/wharf.sock'

# --- what is refused -----------------------------------------------------------------

pod jenkins writable '        readOnly: false' >/dev/null
check "a volume that is not read-only is refused, and the pod's events say so" \
    await event jenkins writable 'add `readOnly: true`'
pod others stranger "$good" >/dev/null
check "a pod of a namespace that is not served is refused" \
    await event others stranger 'the pods of the Kubernetes namespace `others` are not served here'
pod jenkins attributes "$good
        volumeAttributes: {csi.storage.k8s.io/podUID: $(uid one)}" >/dev/null
check "an attribute that looks like the kubelet's is refused" \
    await event jenkins attributes 'which only the kubelet may set'
pod jenkins forged "$good
        volumeAttributes: {csi.storage.k8s.io/pod.uid: $(uid one), csi.storage.k8s.io/pod.namespace: others}" >/dev/null
check "the kubelet's own attributes override a forger's" ready forged
check "and the forger is itself" in_pod forged "wharf info | grep -F 'pods:jenkins#$(uid forged)'"
hostpath() {
    local said
    said=$(kc -n jenkins run hostpath --image=example.invalid/agent:1 --dry-run=server --overrides='{"spec": {"volumes":
      [{"name": "v", "hostPath": {"path": "/var/lib/kubelet"}}]}}' 2>&1) || true
    grep 'violates PodSecurity "restricted.*hostPath' <<<"$said"
}
check "the namespace admits no hostPath" hostpath
check "and the agent of the examples" admits_example

# --- an upgrade, and the end -----------------------------------------------------------

check "helm test passes" helm_test
in_pod one 'mkdir -p /home/slow && cd /home/slow && printf "FROM 127.0.0.1:5000/base:1\nRUN echo begun && sleep 4\n" >Dockerfile &&
     wharf build --progress=plain -t slow:1 . >/home/slow.log 2>&1' &
slow=$!
check "a build runs" await in_pod one 'grep -E "^#[0-9]+ [0-9.]+ begun" /home/slow.log'
check "a changed value makes new pods" helm upgrade wharf "$chart" --reuse-values --set settings.max_builds=3
check "wharfd is replaced" rolled_out
check_job "the build that ran is not lost" "$slow"
check "the pods' sockets work again" await in_pod one 'wharf images | grep team/app'
check "wharfd has the new configuration" config_has 'max_builds = 3'
delete_pods one two forged writable attributes
check "the engine holds nothing of theirs" holds_nothing
check "helm uninstalls it" helm uninstall wharf --wait --timeout=120s
check "nothing of it is left in the cluster" await nothing_left
check "the node keeps its state" on_node test -s /var/lib/wharf/node.key
on_node sh -c 'rm -rf /var/lib/wharf/*'
