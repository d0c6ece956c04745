"""Checks the chart deploy/helm/wharf: what it makes of values, with Helm, the schemas of Kubernetes and wharfd itself."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest

import yaml
from schemas import OLDEST_CHART, validate, versions

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import report  # noqa: E402

HELM, WHARFD = os.environ["WHARF_HELM"], os.path.join(os.environ["WHARF_BIN_DIR"], "wharfd")
CHART = ROOT / "deploy/helm/wharf"
KUSTOMIZE = ROOT / "deploy/kustomize"

# Values that reach every part of the templates.
EVERYTHING = """
image: {repository: registry.example.org/wharfd, tag: "1.2", pullPolicy: Always}
imagePullSecrets: [{name: pull}]
serve:
  - {namespaces: "team-*", atOnce: 8}
  - {namespaces: payments, engine: payments}
settings: {max_builds: 16, audit_log: stderr, log_format: json, namespace_ttl: 12h, listen: ["unix:///run/wharf/wharf.sock", "unix:///run/wharf/other.sock"]}
config: |
  [[policy]]
  name = "all"
  jobs = ["pods:*"]
  pull = ["registry.example.org/*"]
gracePeriodSeconds: 600
engine:
  mode: bundled
  groups:
    - name: default
    - {name: payments, cacheSize: 5GiB, bridge: 192.168.250.1/24, daemon: {mtu: 1400}, resources: {limits: {memory: 4Gi}}}
  daemon: {registry-mirrors: ["https://mirror.example.org"]}
  dnsPolicy: Default
  hostDisk: /var/lib/docker
firewall: {allow: ["10.20.0.0/16:443-8443", "[fd00::5]:5000"], refuse: [203.0.113.0/24, "2001:db8::/64"], clusterNetworks: [10.96.0.0/12, "fd00:10::/64"]}
certsDir: /etc/registries
env: [{name: HTTPS_PROXY, value: "http://proxy.example.org:3128"}]
extraVolumes: [{name: tls, secret: {secretName: wharfd-tls}}]
extraVolumeMounts: [{name: tls, mountPath: /etc/wharf-tls, readOnly: true}]
nodeSelector: {builds: "yes"}
tolerations: [{operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: builds, operator: Exists}]}]}}}
podAnnotations: {example.org/a: b}
podLabels: {example.org/c: d}
maxUnavailable: 10%
metrics: {enabled: true, address: "[::]", port: 9999, annotations: true, from: [{podSelector: {matchLabels: {app: prometheus}}}]}
networkPolicy: {ingress: [{from: [{podSelector: {}}], ports: [{port: 2376}]}]}
"""
SETS = {
    "default": "{}",
    "host": "engine: {mode: host}",
    "everything": EVERYTHING,
    "everything with host": EVERYTHING.replace("mode: bundled", "mode: host").replace(", engine: payments", ""),
    "as little as possible": "firewall: {enabled: false}\nnetworkPolicy: {enabled: false}\ntest: {enabled: false}",
}


def run(*command, **options):
    return subprocess.run([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, **options)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def values(self, text):
        path = self.dir / "values.yaml"
        path.write_text(text)
        return path

    def helm(self, command, text="{}", status=0, chart=CHART):
        done = run(HELM, command, *(["wharf"] if command == "template" else []), chart, "--namespace", "wharf",
                   "--kube-version", ".".join(map(str, OLDEST_CHART)), "--values", self.values(text))
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def notes(self, text):
        """The chart's notes, which helm shows at an installation alone: here as a document of a copy."""
        chart = self.dir / "chart"
        shutil.copytree(CHART, chart, dirs_exist_ok=True)
        shutil.copy(CHART / "templates/NOTES.txt", chart / "notes.txt")
        (chart / "templates/notes.yaml").write_text('kind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get "notes.txt") . | toJson }}\n')
        return self.documents(text, chart=chart)["Notes", "notes"]["text"]

    def documents(self, text="{}", **options):
        documents = [document for document in yaml.safe_load_all(self.helm("template", text, **options)) if document]
        return {(document["kind"], document["metadata"]["name"]): document for document in documents}

    def spec(self, text="{}"):
        return self.documents(text)["DaemonSet", "wharfd"]["spec"]["template"]["spec"]


class Chart(Case):
    def test_helm_finds_no_fault(self):
        for name, text in SETS.items():
            with self.subTest(name):
                self.assertIn("0 chart(s) failed", self.helm("lint", text))

    def test_what_it_makes_is_valid_in_every_version(self):
        among = versions(OLDEST_CHART)
        self.assertGreaterEqual(len(among), 9)
        path = self.dir / "all.yaml"
        for name, text in SETS.items():
            path.write_text(self.helm("template", text))
            documents = len([document for document in yaml.safe_load_all(path.read_text()) if document])
            # All of them for what everybody gets, and the ends for the rest.
            for version in among if name in ("default", "host") else (among[0], among[-1]):
                with self.subTest(name, version=version):
                    done = run(*validate(version, path))
                    self.assertEqual(done.returncode, 0, done.stdout)
                    self.assertEqual(done.stdout.count("passed for resource"), documents, done.stdout)

    def test_wharfd_takes_its_configuration(self):
        state = self.dir / "state"
        state.write_text("not a directory")
        for name, text in SETS.items():
            with self.subTest(name):
                path = self.dir / "wharfd.toml"
                path.write_text(self.documents(text)["ConfigMap", "wharfd"]["data"]["wharfd.toml"])
                done = run(WHARFD, "--config", path, "--state-dir", state)
                # The configuration is a good one if the start fails later.
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn("cannot use the state directory", done.stdout)

    def test_the_firewall_takes_its_arguments(self):
        for text in "{}", EVERYTHING:
            (firewall, *engines) = self.spec(text)["initContainers"]
            self.assertEqual(firewall["name"], "firewall")
            record = self.dir / "set"
            arguments = [re.sub(r"\$\(NODE\)", "192.0.2.1,2001:db8::1", word).replace("$(KUBERNETES_SERVICE_HOST)", "10.96.0.1")
                         .replace("/run/firewall/set", str(record))
                         for word in firewall["args"]]
            # In a network of its own, which has no default route, nothing is set.
            done = run("unshare", "--net", "--", WHARFD, *arguments)
            self.assertEqual((done.returncode, "no default route" in done.stdout), (1, True), done.stdout)
            self.assertEqual(firewall["securityContext"]["capabilities"], {"drop": ["ALL"], "add": ["NET_ADMIN"]})
            self.assertTrue(all(engine["restartPolicy"] == "Always" for engine in engines))

    def test_the_firewall_and_wharfd_know_of_one_another(self):
        documents = self.documents()
        spec = documents["DaemonSet", "wharfd"]["spec"]["template"]["spec"]
        flags = dict(word.removeprefix("--").split("=", 1) for word in spec["initContainers"][0]["args"][1:])
        (wharfd,) = spec["containers"]
        groups = {container["name"]: container["securityContext"].get("runAsGroup", 0) for container in [*spec["initContainers"], wharfd]}
        self.assertEqual([name for name, group in groups.items() if group == int(flags["group"])], ["wharfd"])
        engines = tomllib.loads(documents["ConfigMap", "wharfd"]["data"]["wharfd.toml"])["engines"]
        self.assertEqual({engine["firewall"] for engine in engines.values()}, {flags["record"]})
        directory = str(pathlib.Path(flags["record"]).parent)
        mounts = [mount for container in (spec["initContainers"][0], wharfd) for mount in container["volumeMounts"] if mount["mountPath"] == directory]
        self.assertEqual([(mount["name"], mount.get("readOnly", False)) for mount in mounts], [("firewall", False), ("firewall", True)])
        for text in "engine: {mode: host}", "firewall: {enabled: false}":
            documents = self.documents(text)
            self.assertNotIn("firewall", documents["ConfigMap", "wharfd"]["data"]["wharfd.toml"])

    def test_the_engines_get_their_settings(self):
        data = self.documents(EVERYTHING)["ConfigMap", "wharfd-engines"]["data"]
        default, payments = json.loads(data["default.json"]), json.loads(data["payments.json"])
        for settings, bridge, size in (default, "wharf0", "20GB"), (payments, "wharf1", "5GiB"):
            self.assertEqual((settings["icc"], settings["bridge"]), (False, bridge))
            self.assertEqual(settings["builder"]["gc"]["policy"], [{"all": True, "keepStorage": size}])
            self.assertEqual(settings["registry-mirrors"], ["https://mirror.example.org"])
        self.assertEqual((default.get("mtu"), payments["mtu"]), (None, 1400))
        spec = self.spec(EVERYTHING)
        containers = {container["name"]: container for container in spec["initContainers"]}
        self.assertIn("198.18.0.1/22", containers["engine-default"]["args"][0])
        self.assertIn("192.168.250.1/24", containers["engine-payments"]["args"][0])
        self.assertEqual(containers["engine-payments"]["resources"], {"limits": {"memory": "4Gi"}})

    def test_only_wharfd_has_the_engines_sockets(self):
        spec = self.spec(EVERYTHING)
        for container in [*spec["initContainers"], *spec["containers"]]:
            names = {mount["name"] for mount in container["volumeMounts"]} if "volumeMounts" in container else set()
            engines = {name.removeprefix("engine-") for name in names if name.startswith("engine-")}
            expected = {"default", "payments"} if container["name"] == "wharfd" else \
                {container["name"].removeprefix("engine-")} - {"firewall"}
            self.assertEqual(engines, expected, container["name"])
        self.assertTrue(all("emptyDir" in volume for volume in spec["volumes"] if volume["name"].startswith("engine-")))

    def test_only_engines_have_privilege(self):
        for text in "{}", "engine: {mode: host}":
            spec = self.spec(text)
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                security = container["securityContext"]
                if container["name"].startswith("engine-"):
                    self.assertTrue(security["privileged"])
                    continue
                self.assertFalse(security["privileged"] or security["allowPrivilegeEscalation"])
                self.assertTrue(security["readOnlyRootFilesystem"])
                self.assertEqual(security["capabilities"]["drop"], ["ALL"])
            self.assertFalse(spec["automountServiceAccountToken"])
        self.assertFalse({"Role", "ClusterRole"} & {kind for kind, _ in self.documents()})

    def test_a_pod_ends_after_wharfd_and_its_engines(self):
        for text in "{}", EVERYTHING:
            documents = self.documents(text)
            grace = tomllib.loads(documents["ConfigMap", "wharfd"]["data"]["wharfd.toml"])["grace_period"]
            spec = documents["DaemonSet", "wharfd"]["spec"]["template"]["spec"]
            engines = [container for container in spec["initContainers"] if container["name"].startswith("engine-")]
            # 15 s to clean up and twice 5 s to close connections; then the engines, one after the other.
            self.assertEqual(spec["terminationGracePeriodSeconds"], int(grace.removesuffix("s")) + 25 + 10 * len(engines))

    def test_no_engine_holds_up_the_others(self):
        """The kubelet starts the next one as soon as one runs."""
        for container in self.spec(EVERYTHING)["initContainers"]:
            self.assertNotIn("startupProbe", container)

    def test_wharfd_has_of_the_kubelet_s_directory_what_it_needs(self):
        for text, root in ("{}", "/var/lib/kubelet"), ("{engine: {mode: host}, kubeletDir: /data/kubelet}", "/data/kubelet"):
            spec = self.spec(text)
            (wharfd,) = spec["containers"]
            paths = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume}
            mounts = {mount["mountPath"]: paths.get(mount["name"]) for mount in wharfd["volumeMounts"]}
            below = {path: source for path, source in mounts.items() if path.startswith(root)}
            needed = [f"{root}/{name}" for name in ("pods", "plugins/csi.wharf.dev", "plugins_registry")]
            self.assertEqual(below, dict(zip(needed, needed)))

    def test_a_changed_configuration_makes_new_pods(self):
        def checksum(text):
            template = self.documents(text)["DaemonSet", "wharfd"]["spec"]["template"]
            return template["metadata"]["annotations"]["checksum/config"]
        sums = [checksum(text) for text in ("{}", "settings: {max_builds: 3}", "engine: {cacheSize: 1GB}", "serve: [{namespaces: a}]")]
        self.assertEqual(len(set(sums)), len(sums))
        self.assertEqual(checksum("{}"), checksum("tolerations: [{operator: Exists}]"))

    def test_metrics_are_off_unless_asked_for(self):
        documents = self.documents()
        template = documents["DaemonSet", "wharfd"]["spec"]["template"]
        self.assertNotIn("metrics", documents["ConfigMap", "wharfd"]["data"]["wharfd.toml"])
        self.assertNotIn("ports", template["spec"]["containers"][0])
        self.assertEqual(documents["NetworkPolicy", "wharfd"]["spec"]["ingress"], [])
        # Neither of these turns them on.
        documents = self.documents("metrics: {annotations: true, podMonitor: {enabled: true}}")
        self.assertNotIn(("PodMonitor", "wharfd"), documents)
        self.assertNotIn("prometheus.io/scrape", documents["DaemonSet", "wharfd"]["spec"]["template"]["metadata"]["annotations"])

    def test_metrics_have_one_port_for_the_scraper_alone(self):
        for mode in "bundled", "host":
            address = "0.0.0.0" if mode == "bundled" else "127.0.0.1"
            named = "" if mode == "bundled" else f"address: {address}, "
            values = f"engine: {{mode: {mode}}}\nmetrics: {{enabled: true, {named}port: 9999, annotations: true, podMonitor: {{enabled: true, labels: {{release: p}}}}}}"
            documents = self.documents(values)
            template = documents["DaemonSet", "wharfd"]["spec"]["template"]
            config = tomllib.loads(documents["ConfigMap", "wharfd"]["data"]["wharfd.toml"])
            self.assertEqual(config["metrics"], {"listen": f"{address}:9999"})
            (port,) = template["spec"]["containers"][0]["ports"]
            self.assertEqual((port["name"], port["containerPort"]), ("metrics", 9999))
            annotations = template["metadata"]["annotations"]
            self.assertEqual((annotations["prometheus.io/port"], annotations["prometheus.io/path"]), ("9999", "/metrics"))
            monitor = documents["PodMonitor", "wharfd"]
            self.assertEqual(monitor["metadata"]["labels"]["release"], "p")
            (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
            self.assertEqual((endpoint["port"], endpoint["path"]), (port["name"], "/metrics"))
            labels = monitor["spec"]["selector"]["matchLabels"]
            self.assertEqual(labels, {key: template["metadata"]["labels"][key] for key in labels})
            if mode == "bundled":
                (rule,) = documents["NetworkPolicy", "wharfd"]["spec"]["ingress"]
                self.assertEqual(rule["ports"], [{"protocol": "TCP", "port": 9999}])
                self.assertEqual(rule["from"], [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}])
        # Beside the operator's own rules.
        self.assertEqual(len(self.documents(EVERYTHING)["NetworkPolicy", "wharfd"]["spec"]["ingress"]), 2)

    def test_the_notes_say_who_reads_the_metrics(self):
        for text, said in (
                ("metrics: {enabled: true}", "admits the peers of metrics.from"),
                ("metrics: {enabled: true}\nnetworkPolicy: {enabled: false}", "there is no NetworkPolicy"),
                ("engine: {mode: host}\nmetrics: {enabled: true, address: 0.0.0.0}", "0.0.0.0:9464 is a port of each node")):
            with self.subTest(text):
                self.assertIn(said, self.notes(text).partition("METRICS: ")[2])
        self.assertNotIn("METRICS", self.notes("{}"))

    def test_values_that_are_wrong_are_refused(self):
        for text, said in (
                ("engin: {}", "engin"),
                ("engine: {mode: none}", "mode"),
                ("engine: {groups: []}", "groups"),
                ("engine: {groups: [{name: A}]}", "name"),
                ("engine: {groups: [{name: a}, {name: a}]}", "two groups have the same name"),
                ("engine: {cacheSize: 20}", "cacheSize"),
                ("engine: {daemon: {hosts: ['tcp://0.0.0.0:2375']}}", "daemon"),
                ("engine: {groups: [{name: a, daemon: {data-root: /x}}]}", "daemon"),
                ("serve: []", "serve"),
                ("serve: [{namespaces: a, engine: other}]", "there is no engine `other`; there are: default"),
                ("settings: {state_dir: /x}", "settings"),
                ("settings: {disk: {low: 1%}}", "settings"),
                ("settings: {listen: ['tcp://0.0.0.0:2376']}", "listen"),
                ("settings: {listen: unix:///run/wharf/wharf.sock}", "listen"),
                ("firewall: {allow: [registry.example.org]}", "allow"),
                *((f"firewall: {{allow: ['{grant}']}}", "name their networks in firewall.clusterNetworks") for grant in (
                    "10.0.0.0/8", "10.0.0.0/9", "10.20.0.0/16:443", "172.16.0.0/12", "192.168.0.0/16", "192.168.0.0/23:80-90",
                    "100.64.0.0/10")),
                ("firewall: {clusterNetworks: ['10.0.0.0/8:80']}", "clusterNetworks"),
                *((f"firewall: {{{key}: ['{entry}']}}", key) for key in ("allow", "refuse", "clusterNetworks") for entry in (
                    "10.0.0.256", "10.0.0", "10.0.0.0/33", "010.0.0.1", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:-80",
                    "fd00::5]:443", "[fd00::5]", "fd00::/129", "/", ":80", "")),
                *((f"engine: {{groups: [{{name: a, bridge: {bridge}}}]}}", "bridge") for bridge in (
                    "999.18.0.1/22", "198.18.0.1/33", "198.18.0.1/30", "10.0.0.1/8", "198.18.0.1", "'fd00::1/64'")),
                *((f"engine: {{daemon: {{{key}: {value}}}}}", "daemon") for key, value in (
                    ("ip6tables", "false"), ("iptables", "false"), ("ip-forward", "false"), ("ip-masq", "false"), ("userland-proxy", "false"),
                    ("live-restore", "true"), ("containerd", "/x"), ("group", "docker"), ("default-gateway", "10.0.0.1"),
                    ("firewall-backend", "nftables"), ("mtu", "'1400'"), ("log-level", "loud"))),
                ("kubeletDir: kubelet", "kubeletDir"),
                *((f"metrics: {{{key}: {value}}}", key) for key, value in (
                    ("address", "localhost"), ("address", "'::'"), ("port", "80"), ("port", "'9464'"), ("from", "[]"), ("enabled", "1"),
                    ("podMonitor", "{interval: soon}"))),
                # Nothing says who may reach a port of the node.
                ("engine: {mode: host}\nmetrics: {enabled: true}", "metrics.address: with engine.mode host the port is the node's"),
                ("gracePeriodSeconds: 25s", "gracePeriodSeconds")):
            with self.subTest(text):
                self.assertIn(said, self.helm("template", text, status=1))

    def test_values_that_are_right_are_taken(self):
        for text in (
                "firewall: {allow: [10.20.0.5, 172.32.0.0/12, 192.169.0.0/16, 10.20.0.5:1, '10.20.0.0/24:8000-8080', '[fd00::/64]:1-65535', 'fd00::5', '::/0', 0.0.0.0/0]}",
                # They open no private address.
                "firewall: {allow: [10.0.0.0/7, '8.0.0.0/6:443', 192.168.0.0/15]}",
                "firewall: {refuse: [203.0.113.0/24, '2001:db8::1', '::ffff:10.0.0.1']}",
                "engine: {groups: [{name: a, bridge: 192.168.250.1/24}]}"):
            with self.subTest(text):
                self.helm("template", text)

    def test_its_version_is_wharf_s(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))

    def test_the_values_are_those_of_the_page(self):
        """Each value that docs/kubernetes.md names is one."""
        known = yaml.safe_load((CHART / "values.yaml").read_text())
        page = (ROOT / "docs/kubernetes.md").read_text()
        named = set(re.findall(r"`((?:engine|firewall|networkPolicy|metrics|image|test)\.[a-zA-Z]+)`", page))
        self.assertGreaterEqual(len(named), 5)
        for name in named:
            first, second = name.split(".")
            self.assertIn(second, known[first], name)


class Examples(Case):
    EXAMPLES = ROOT / "deploy/examples"

    def test_jenkins_has_the_agent_s_pod(self):
        configuration = yaml.safe_load((self.EXAMPLES / "jenkins.yaml").read_text())
        (cloud,) = configuration["jenkins"]["clouds"]
        (template,) = cloud["kubernetes"]["templates"]
        agent = (self.EXAMPLES / "agent.yaml").read_text()
        self.assertEqual(template["yaml"], agent[agent.index("apiVersion"):])
        # The Jenkinsfile's label, login and library, and the namespace that the chart serves.
        jenkinsfile = (self.EXAMPLES / "Jenkinsfile").read_text()
        self.assertIn(f"label '{template['label']}'", jenkinsfile)
        (domain,) = configuration["credentials"]["system"]["domainCredentials"]
        (login,) = domain["credentials"]
        self.assertIn(f"credentials: '{login['usernamePassword']['id']}'", jenkinsfile)
        (library,) = configuration["unclassified"]["globalLibraries"]["libraries"]
        self.assertTrue(jenkinsfile.startswith(f"@Library('{library['name']}') _\n"))
        served = yaml.safe_load((CHART / "values.yaml").read_text())["serve"]
        self.assertEqual(served, [{"namespaces": cloud["kubernetes"]["namespace"]}])

    def test_the_agent_s_pod_is_valid(self):
        pod = yaml.safe_load((self.EXAMPLES / "agent.yaml").read_text())
        self.assertEqual(pod["spec"]["volumes"][0]["csi"], {"driver": "csi.wharf.dev", "readOnly": True})
        # As the plugin completes it.
        pod["metadata"]["name"] = "agent"
        pod["spec"]["containers"][0]["image"] = "jenkins/inbound-agent:latest"
        path = self.dir / "pod.yaml"
        path.write_text(yaml.safe_dump(pod))
        among = versions(OLDEST_CHART)
        for version in among[0], among[-1]:
            done = run(*validate(version, path))
            self.assertEqual(done.returncode, 0, done.stdout)


class Kustomize(Case):
    def test_the_manifests_are_the_chart_s(self):
        done = run(ROOT / "scripts/manifests", self.dir)
        self.assertEqual(done.returncode, 0, done.stdout)
        for mode in "bundled", "host":
            made = (self.dir / mode / "wharf.yaml").read_text()
            self.assertEqual(made, (KUSTOMIZE / mode / "wharf.yaml").read_text(), "run make manifests")
            resources = yaml.safe_load((KUSTOMIZE / mode / "kustomization.yaml").read_text())["resources"]
            for resource in resources:
                self.assertTrue((KUSTOMIZE / mode / resource).exists(), resource)


report.main("chart")
