"""The schemas of Kubernetes, of every version that kubernetes-validate has."""
import pathlib
import re
import sys

# The oldest of the plain DaemonSet, and of the chart: earlier kubelets name a pod's socket in a way that HTTP does not allow.
OLDEST, OLDEST_CHART = (1, 28), (1, 29)


def versions(oldest):
    import kubernetes_validate
    schemas = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    found = {tuple(map(int, name.groups())) for path in schemas.iterdir()
             if (name := re.match(r"v(\d+)\.(\d+)\.\d+-local-strict", path.name))}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= oldest]


def validate(version, path):
    """The command that validates a file."""
    return sys.executable, "-m", "kubernetes_validate", "--strict", "--kubernetes-version", version, str(path)
