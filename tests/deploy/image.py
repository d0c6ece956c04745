"""wharfd's image: built by wharf, run with the DaemonSet's mounts and user, used from an agent's container."""
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import urllib.request

import manifest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import report  # noqa: E402

ENGINE, REGISTRY = os.environ["ENGINE"], os.environ["REGISTRY"]
SOCKET, PID = os.environ[f"WHARF_ENGINE_{ENGINE}"], os.environ[f"WHARF_PID_{ENGINE}"]
BIN = pathlib.Path(os.environ["WHARF_BIN_DIR"])
# The path on the engine's node, as seen here; and the directory that both can see.
NODE = pathlib.Path(f"/proc/{PID}/root")
SHARED, SHARED_ON_NODE = pathlib.Path(SOCKET).parent, "/run/engine"
START_SECONDS = 60


def run(*command, status=0, **options):
    done = subprocess.run([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, **options)
    if status is not None and done.returncode != status:
        raise AssertionError(f"{command}: exit status {done.returncode}, not {status}:\n{done.stdout}")
    return done.stdout


def docker(*arguments, **options):
    """The actions of the node's operator."""
    return run(os.environ["WHARF_DOCKER"], "--host", f"unix://{SOCKET}", *arguments, **options)


def on_node(*command):
    return run("nsenter", f"--target={PID}", "--mount", "--", *command)


def digest_in_registry(name, tag):
    request = urllib.request.Request(f"http://{REGISTRY}/v2/{name}/manifests/{tag}", method="HEAD")
    request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, "
                                 "application/vnd.oci.image.index.v1+json")
    with urllib.request.urlopen(request) as response:
        return response.headers["Docker-Content-Digest"]


def import_agent():
    """An image of busybox for the agent, with Jenkins' user."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        def add(name, content=None, **fields):
            entry = tarfile.TarInfo(name)
            for field, value in {"mode": 0o755, **fields}.items():
                setattr(entry, field, value)
            entry.size = len(content or b"")
            tar.addfile(entry, io.BytesIO(content or b""))
        add("bin", type=tarfile.DIRTYPE)
        add("bin/busybox", pathlib.Path(os.environ["WHARF_BUSYBOX"]).read_bytes())
        for command in "sh", "cat", "find", "grep", "sleep", "touch", "id", "mkdir", "cp", "rm", "ls":
            add(f"bin/{command}", type=tarfile.SYMTYPE, linkname="busybox")
        add("tmp", type=tarfile.DIRTYPE, mode=0o1777)
        add("etc", type=tarfile.DIRTYPE)
        add("etc/passwd", b"root:x:0:0::/:/bin/sh\njenkins:x:1000:1000::/tmp:/bin/sh\n", mode=0o644)
    name = "agent:1"
    subprocess.run([os.environ["WHARF_DOCKER"], "--host", f"unix://{SOCKET}", "import", "-", name],
                   input=data.getvalue(), check=True, stdout=subprocess.DEVNULL)
    return name


def package():
    """The files of `make package`, with the tested binaries."""
    directory = pathlib.Path(SHARED) / "package"
    directory.mkdir(exist_ok=True)
    for source, name in (BIN / "wharf", "wharf"), (BIN / "wharfd", "wharfd"), (os.environ["WHARF_FRONTEND"], "wharf-frontend"):
        shutil.copy(source, directory / name)
    return directory


class Deployed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.files = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(dir=SHARED)))
        cls.wharfd = manifest.wharfd(cls.files, f"{SHARED_ON_NODE}/{cls.files.name}")
        cls.agent = manifest.agent()
        cls.build()
        cls.make_node()
        cls.start()

    @classmethod
    def build(cls):
        """The image is built by the wharfd outside and pushed to the registry; the operator pulls it to the node."""
        name = cls.wharfd.image.split("/", 1)[1]
        cls.image = f"{REGISTRY}/{name}"
        wharf = BIN / "wharf", "--namespace", "deploy/wharfd#1"
        cls.said = run(*wharf, "build", "--progress=plain", "-f", ROOT / "deploy/Dockerfile", "-t", cls.image, package())
        cls.digest = re.search(r"digest: (sha256:[0-9a-f]{64})", run(*wharf, "push", cls.image))[1]
        cls.public_before_pull = cls.image in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
        docker("pull", "--quiet", cls.image)
        docker("tag", cls.image, cls.wharfd.image)

    @classmethod
    def make_node(cls):
        """Adds what a private engine's root lacks to be a node: the socket at its packaged path, and the
        directories that the kubelet makes."""
        on_node("ln", "-sf", f"{SHARED_ON_NODE}/docker.sock", "/run/docker.sock")
        for path, kind in cls.wharfd.host_paths.items():
            if kind == "DirectoryOrCreate":
                on_node("mkdir", "-p", path)
            else:
                on_node("test", "-S", path)

    @classmethod
    def start(cls):
        cls.container = docker("run", "--detach", *cls.wharfd.flags, cls.wharfd.image, *cls.wharfd.args).split()[-1]
        cls.addClassCleanup(docker, "rm", "--force", cls.container)
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run([os.environ["WHARF_DOCKER"], "--host", f"unix://{SOCKET}", "exec", cls.container,
                              *cls.wharfd.probes["readinessProbe"]], capture_output=True).returncode:
            state = json.loads(docker("inspect", cls.container))[0]["State"]
            if not state["Running"] or time.monotonic() > deadline:
                raise AssertionError(f"wharfd is not ready: {state}\n{docker('logs', cls.container)}")
            time.sleep(0.1)
        cls.agents = docker("run", "--detach", "--network=none", *cls.agent.flags, import_agent(), "sleep", "1000").split()[-1]
        cls.addClassCleanup(docker, "rm", "--force", cls.agents)

    def in_agent(self, *command, **options):
        try:
            return docker("exec", self.agents, *command, **options)
        except AssertionError as error:
            raise AssertionError(f"{error}\n-- wharfd's log:\n{docker('logs', '--tail=10', self.container)}") from None

    def context(self, name, dockerfile):
        """A build context in the agent."""
        path = f"/tmp/{name}"
        self.in_agent("sh", "-c", 'mkdir "$1" && echo hello >"$1/hello" && echo "$2" >"$1/Dockerfile"', "-", path, dockerfile)
        return path

    def test_the_image_is_three_programs(self):
        export = subprocess.run([os.environ["WHARF_DOCKER"], "--host", f"unix://{SOCKET}", "export", self.container],
                                check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(export)) as tar:
            programs = {entry.name for entry in tar if entry.isfile() and entry.size}
        self.assertEqual(programs, {f"usr/local/bin/{name}" for name in ("wharf", "wharfd", "wharf-frontend")})
        self.assertEqual(digest_in_registry(*self.image.split("/", 1)[1].split(":")), self.digest)
        self.assertFalse(self.public_before_pull, "the build left a public name")

    def test_wharfd_has_what_the_manifest_says(self):
        (found,) = json.loads(docker("inspect", self.container))
        self.assertTrue(found["HostConfig"]["ReadonlyRootfs"])
        self.assertEqual(found["HostConfig"]["CapDrop"], ["ALL"])
        pid = found["State"]["Pid"]
        status = (NODE / f"proc/{pid}/status").read_text()
        self.assertRegex(status, r"(?m)^NoNewPrivs:\s+1$")
        self.assertRegex(status, r"(?m)^CapEff:\s+0+$")
        self.assertRegex(status, r"(?m)^Seccomp:\s+2$")
        self.assertEqual({mount["Destination"] for mount in found["Mounts"]},
                         {"/etc/docker/certs.d", "/etc/wharf", "/run/engine/docker.sock", "/run/wharf", "/var/lib/wharf"})

    def test_agents_have_the_client_of_the_same_version(self):
        client = NODE / "run/wharf/bin/wharf"
        self.assertEqual(client.read_bytes(), (BIN / "wharf").read_bytes())
        self.assertEqual(client.stat().st_mode & 0o777, 0o755)
        self.assertIn(run(BIN / "wharfd", "--version").split()[1], self.in_agent("wharf", "version"))

    def test_an_agent_builds_pushes_and_runs(self):
        context = self.context("app", f"FROM {REGISTRY}/busybox:1\nCOPY hello /\nRUN cat hello hello >/twice\nCMD cat /twice")
        name = f"from-agent:{ENGINE}"
        said = self.in_agent("wharf", "--namespace", "acme/app#7", "build", "--progress=plain", "--push", "--metadata-file",
                             "/tmp/metadata.json", "-t", f"{REGISTRY}/{name}", context)
        digest = json.loads(self.in_agent("cat", "/tmp/metadata.json"))["containerimage.digest"]
        self.assertEqual(digest, digest_in_registry(*name.split(":")), said)
        self.assertEqual(docker("run", "--rm", "--pull=always", "--quiet", f"{REGISTRY}/{name}"), "hello\nhello\n")
        self.assertIn("uid 1000", self.in_agent("wharf", "info"))

    def test_an_agent_has_no_way_to_the_engine(self):
        everything = "sh", "-c", "find / -type s 2>/dev/null; grep -o '[^ ]*docker[^ ]*sock[^ ]*' /proc/self/mountinfo"
        # The search finds the socket at its path.
        there = docker("run", "--rm", "--network=none", f"--mount=type=bind,src={SHARED_ON_NODE}/docker.sock,dst=/var/run/docker.sock",
                       "agent:1", *everything)
        self.assertIn("/run/docker.sock", there)
        self.assertEqual(self.in_agent(*everything, status=None).split(), ["/run/wharf/wharf.sock"])
        self.assertEqual(self.in_agent("id", "-u").strip(), "1000")
        # It has only wharfd's socket, which does not speak the engine's API.
        def asks(path):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(path))
                connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
                answer = b""
                try:
                    while piece := connection.recv(4096):
                        answer += piece
                except ConnectionResetError:
                    pass
                return answer
        self.assertIn(b"200 OK", asks(SOCKET))
        self.assertNotIn(b"HTTP/1.1 200", asks(NODE / "run/wharf/wharf.sock"))

    def test_an_agent_cannot_replace_the_client_or_the_socket(self):
        for command in ("cp", "/bin/sh", "/run/wharf/bin/wharf"), ("touch", "/run/wharf/x"), ("rm", "-f", "/run/wharf/wharf.sock"):
            self.in_agent(*command, status=1)

    def test_another_uid_is_told_how_it_can_be_served(self):
        said = docker("exec", "--user=1001", self.agents, "wharf", "info", status=3)
        self.assertIn("uid 1001 is not served", said)
        self.assertIn("[[serve]]", said)

    def test_hosts_are_looked_up_in_an_image_without_files(self):
        context = self.context("url", f"FROM {REGISTRY}/busybox:1\nADD http://localhost:1/x /")
        said = self.in_agent("wharf", "--namespace", "acme/url#1", "build", context, status=3)
        self.assertRegex(said, r"(127\.0\.0\.1|::1) is an address of this node")

    def test_the_log_names_who_is_served(self):
        said = docker("logs", self.container)
        self.assertIn('serving a caller caller="uid 1000" engine=default namespaces=*', said)
        self.assertIn("the client for agents client=/run/wharf/bin/wharf", said)
        self.assertIn("Dockerfiles are read in a container", said)

    def test_zz_a_stop_is_clean(self):
        """Runs last: it stops the wharfd that the other tests use."""
        began = time.monotonic()
        docker("stop", "--time=60", self.container)
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(json.loads(docker("inspect", self.container))[0]["State"]["ExitCode"], 0)
        self.assertFalse((NODE / "run/wharf/wharf.sock").exists())
        said = self.in_agent("wharf", "info", status=4)
        self.assertIn("/run/wharf/wharf.sock", said)


report.main(f"image [{ENGINE}]")
