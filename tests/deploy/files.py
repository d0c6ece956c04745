"""Checks the files of deploy/ and the operator's page with the tools and binaries that use them."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import manifest
import yaml
from schemas import OLDEST, validate, versions

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import report  # noqa: E402

WHARFD = os.path.join(os.environ["WHARF_BIN_DIR"], "wharfd")
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs/operating.md").read_text()


def run(*command, **options):
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, **options)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def succeeds(self, *command):
        done = run(*command)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def fails(self, *command):
        done = run(*command)
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def is_taken(self, config, *flags):
        """Whether wharfd accepts a configuration: then the start fails later, with status 1 and not 2."""
        state = self.dir / "state"
        state.write_text("not a directory")
        done = run(WHARFD, "--config", config, *flags, "--state-dir", state, "--engine", f"unix://{self.dir}/no.sock")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("cannot use the state directory", done.stdout)


class Systemd(Case):
    UNIT = (DEPLOY / "wharfd.service").read_text()

    def unit(self, text):
        """A unit whose program exists, as systemd requires."""
        path = self.dir / "wharfd.service"
        path.write_text(text.replace("/usr/local/bin/wharfd", WHARFD))
        return str(path)

    def test_the_unit_is_right(self):
        said = self.succeeds("systemd-analyze", "verify", "--man=no", self.unit(self.UNIT))
        self.assertEqual(said, "")
        wrong = self.UNIT.replace("RestartSec=2", "RestartSecs=2")
        self.assertIn("RestartSecs", run("systemd-analyze", "verify", "--man=no", self.unit(wrong)).stdout)

    def test_the_unit_is_hardened(self):
        check = "systemd-analyze", "security", "--offline=true", "--threshold=15"
        self.succeeds(*check, self.unit(self.UNIT))
        self.fails(*check, self.unit(self.UNIT.replace("CapabilityBoundingSet=\n", "")))

    def test_its_configuration_is_one(self):
        self.is_taken(DEPLOY / "wharfd.toml")


class Kubernetes(Case):
    def test_the_manifest_is_valid(self):
        among = versions(OLDEST)
        self.assertGreaterEqual(len(among), 10)
        for version in among:
            said = self.succeeds(*validate(version, manifest.FILE))
            documents = len(list(yaml.safe_load_all(manifest.FILE.read_text())))
            self.assertEqual(said.count("passed for resource"), documents, said)

    def test_a_manifest_that_is_wrong_is_not(self):
        wrong = self.dir / "wrong.yaml"
        text = manifest.FILE.read_text()
        for good, bad in ("readOnly: true", "readonly: true"), ("runAsUser: 0", "runAsUser: root"):
            self.assertIn(good, text)
            wrong.write_text(text.replace(good, bad))
            self.fails(*validate("1.34", wrong))

    def test_its_configuration_is_one(self):
        config = self.dir / "wharfd.toml"
        config.write_text(manifest.DOCUMENTS["ConfigMap", "wharfd"]["data"]["wharfd.toml"])
        self.is_taken(config)

    def test_pods_end_after_wharfd_does(self):
        # 25 s of grace, then 15 s to clean up and twice 5 s to close connections.
        for seconds in (manifest.DOCUMENTS["DaemonSet", "wharfd"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
                        int(re.search(r"(?m)^TimeoutStopSec=(\d+)$", Systemd.UNIT)[1])):
            self.assertGreaterEqual(seconds, 25 + 15 + 2 * 5)

    def test_both_limit_its_memory_alike(self):
        (container,) = manifest.DOCUMENTS["DaemonSet", "wharfd"]["spec"]["template"]["spec"]["containers"]
        limit = re.search(r"(?m)^MemoryMax=(\d+)M$", Systemd.UNIT)[1]
        self.assertEqual(container["resources"]["limits"]["memory"], f"{limit}Mi")
        self.assertIn(f"{limit} MiB", PAGE)

    def test_the_pod_template_of_the_jenkins_page_is_the_agents(self):
        (template,) = (document for text in re.findall(r"(?s)```yaml\n(.*?)```", (ROOT / "docs/jenkins.md").read_text())
                       for document in yaml.safe_load_all(text) if document.get("kind") == "Pod")
        agent = manifest.DOCUMENTS["Pod", "jenkins-agent"]["spec"]
        self.assertEqual(template["spec"]["volumes"], agent["volumes"])
        for name in "name", "env", "volumeMounts":
            self.assertEqual(template["spec"]["containers"][0][name], agent["containers"][0][name])

    def test_both_configurations_say_the_same(self):
        # Except the engine's socket, which has another path in the pod.
        settings = [re.sub(r"(?m)^socket = .*$|^\s*#.*$|^\n", "", text)
                    for text in ((DEPLOY / "wharfd.toml").read_text(),
                                 manifest.DOCUMENTS["ConfigMap", "wharfd"]["data"]["wharfd.toml"])]
        self.assertEqual(*(sorted(line for line in text.splitlines() if line) for text in settings))


class Page(Case):
    """docs/operating.md agrees with the binaries and the code."""

    def test_every_flag_and_variable_is_told(self):
        said = self.succeeds(WHARFD, "--help")
        flags = set(re.findall(r"(?m)^ +(?:-\w, )?(--[\w-]+)", said)) - {"--help", "--version"}
        variables = set(re.findall(r"WHARFD_\w+", said))
        self.assertGreaterEqual(len(flags), 10)
        for name in flags | variables:
            self.assertRegex(PAGE, rf"`{name}[ `]", name)
        for name in set(re.findall(r"WHARFD_\w*[A-Z]", PAGE)):
            self.assertIn(name, variables)
        for name in set(re.findall(r"`(--[a-z-]+) ", PAGE)) & {f"--{v[7:].lower().replace('_', '-')}" for v in variables}:
            self.assertIn(name, flags)

    def keys(self, text):
        """The keys in wharfd's error about an unknown key."""
        config = self.dir / "wharfd.toml"
        config.write_text(text)
        said = self.fails(WHARFD, "--config", config)
        self.assertIn("unknown field `zzz`", said)
        return set(re.findall(r"`(\w+)`", said)) - {"zzz"}

    def test_every_key_is_told(self):
        for text, among in (("zzz = 1\n", 10), ("[engines.a]\nsocket = \"unix:///a\"\nzzz = 1\n", 1),
                            ("[[serve]]\nzzz = 1\n", 3)):
            keys = self.keys(text)
            self.assertGreaterEqual(len(keys), among)
            for key in keys:
                self.assertRegex(PAGE, rf"\b{key}\b")

    def test_every_message_is_one(self):
        """The table of messages is checked against the code; `…` stands for a name."""
        code = "".join(re.sub(r"\\\n\s*", "", path.read_text()) for path in (ROOT / "src").rglob("*.rs"))
        texts = [re.sub(r"\{[^{}]*\}", "…", text) for text in re.findall(r'"((?:[^"\\\n]|\\.)*)"', code)]
        table = PAGE[PAGE.index("## When something fails"):]
        messages = re.findall(r"(?m)^\| `` ?(.+?) ?`` \||^\| `([^`]+)` \|", table)
        self.assertGreaterEqual(len(messages), 8)
        for message in (double or single for double, single in messages):
            for part in filter(None, (part.strip(" `") for part in message.split("…"))):
                self.assertTrue(any(part in text for text in texts), f"{message}: nothing says `{part}`")

    def test_examples_are_configurations(self):
        examples = re.findall(r"(?s)```toml\n(.*?)```", PAGE)
        self.assertGreaterEqual(len(examples), 2)
        for number, text in enumerate(examples):
            config = self.dir / f"{number}.toml"
            config.write_text(text)
            self.is_taken(config, "--listen-group", "0")

    def test_links_lead_somewhere(self):
        for page in (ROOT / "README.md", ROOT / "docs/operating.md"):
            for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
                if "://" not in link:
                    self.assertTrue((page.parent / link).exists(), f"{page.name}: {link}")


class Client(Case):
    def test_a_client_that_is_missing_stops_the_start(self):
        lonely = self.dir / "wharfd"
        lonely.write_bytes(pathlib.Path(WHARFD).read_bytes())
        lonely.chmod(0o755)
        done = run(lonely, "--engine", f"unix://{os.environ['WHARF_ENGINE_26']}", "--listen", f"unix://{self.dir}/w.sock",
                   "--state-dir", self.dir / "state", "--client-dir", self.dir / "bin")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn(f"no client at {self.dir}/wharf", done.stdout)
        self.assertFalse((self.dir / "w.sock").exists())


report.main("deploy")
