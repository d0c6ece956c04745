"""Translates deploy/daemonset.yaml to the arguments of `docker run`, so that tests run the manifest that is
published. A field that is not translated is an error, not ignored."""
import pathlib

import yaml

ROOT = pathlib.Path(__file__).parents[2]
FILE = ROOT / "deploy/daemonset.yaml"
DOCUMENTS = {(document["kind"], document["metadata"]["name"]): document for document in yaml.safe_load_all(FILE.read_text())}

# Kubernetes' settings that make no difference to a single container on one node.
ELSEWHERE = {
    "pod": {"nodeSelector", "priorityClassName", "enableServiceLinks", "terminationGracePeriodSeconds", "dnsPolicy",
            "restartPolicy"},
    "container": {"name", "image", "args", "command", "livenessProbe", "readinessProbe"},
}


def take(fields, known, where):
    """The fields of a mapping; fails if one is unknown."""
    unknown = set(fields) - set(known)
    if unknown:
        raise AssertionError(f"{FILE}: {where}: the tests do not know {', '.join(sorted(unknown))}")
    return [fields.get(name) for name in known]


class Container:
    """The one container of a pod's specification."""

    def __init__(self, pod, files, seen):
        """`files` is a directory for the contents of config maps, `seen` its path as the engine sees it."""
        containers, volumes, token, host_network = take(
            {name: value for name, value in pod.items() if name not in ELSEWHERE["pod"]},
            ["containers", "volumes", "automountServiceAccountToken", "hostNetwork"], "pod")
        assert token is False, "the pod has a token for the API server"
        (container,) = containers
        self.image, self.args = container["image"], container.get("args", [])
        self.probes = {name: container[name]["exec"]["command"]
                       for name in ("livenessProbe", "readinessProbe") if name in container}
        env, security, resources, mounts = take(
            {name: value for name, value in container.items() if name not in ELSEWHERE["container"]},
            ["env", "securityContext", "resources", "volumeMounts"], "container")
        self.flags = [*self._security(**security), *(f"--env={entry['name']}={entry['value']}" for entry in env or [])]
        if host_network:
            self.flags.append("--network=host")
        if resources:
            self.flags.append(f"--memory={resources['limits']['memory'].removesuffix('i').lower()}")
        self.host_paths = {}
        for mount in mounts:
            name, path, read_only = take(mount, ["name", "mountPath", "readOnly"], "volumeMounts")
            (volume,) = (volume for volume in volumes if volume["name"] == name)
            source = self._source({key: value for key, value in volume.items() if key != "name"}, files, seen)
            self.flags.append(f"--mount=type=bind,src={source},dst={path}{',readonly' if read_only else ''}")

    def _source(self, volume, files, seen):
        ((kind, value),) = volume.items()
        if kind == "hostPath":
            self.host_paths[value["path"]] = value["type"]
            return value["path"]
        assert kind == "configMap", kind
        directory = pathlib.Path(files, value["name"])
        directory.mkdir(exist_ok=True)
        for name, text in DOCUMENTS["ConfigMap", value["name"]]["data"].items():
            (directory / name).write_text(text)
        return f"{seen}/{value['name']}"

    @staticmethod
    def _security(runAsUser, runAsGroup, allowPrivilegeEscalation, capabilities, seccompProfile, *,
                  runAsNonRoot=False, privileged=False, readOnlyRootFilesystem=False):
        """As options of the engine; `RuntimeDefault` means the engine's own seccomp profile."""
        assert seccompProfile == {"type": "RuntimeDefault"} and not privileged and not allowPrivilegeEscalation
        assert not runAsNonRoot or runAsUser
        yield f"--user={runAsUser}:{runAsGroup}"
        yield "--security-opt=no-new-privileges"
        yield from (f"--cap-drop={name}" for name in capabilities["drop"])
        if readOnlyRootFilesystem:
            yield "--read-only"


def wharfd(files, seen):
    """wharfd's container."""
    return Container(DOCUMENTS["DaemonSet", "wharfd"]["spec"]["template"]["spec"], files, seen)


def agent():
    """The agent's container, which has no configuration."""
    return Container(DOCUMENTS["Pod", "jenkins-agent"]["spec"], None, None)
