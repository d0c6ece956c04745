"""Runs the systemd unit under a real systemd, installed as docs/operating.md says."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import report  # noqa: E402

ENGINE = os.environ["ENGINE"]
SOCKET = pathlib.Path(os.environ[f"WHARF_ENGINE_{ENGINE}"])
BIN = pathlib.Path(os.environ["WHARF_BIN_DIR"])
PAGE = (ROOT / "docs/operating.md").read_text()
START_SECONDS = 60
AGENT = "setpriv --reuid=1000 --regid=1000 --clear-groups env HOME=/tmp PATH=/run/wharf/bin wharf --namespace acme/app#1"


@contextlib.contextmanager
def new_cgroup():
    """A cgroup of version 2 for the node's processes; a machine with version 1 also has version 2, without controllers."""
    mounts = (line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines())
    top = next((pathlib.Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    with contextlib.ExitStack() as stack:
        if not top:
            top = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            subprocess.run(["mount", "-t", "cgroup2", "cgroup2", top], check=True)
            stack.callback(subprocess.run, ["umount", top], check=True)
        path = top / f"wharf-node-{os.getpid()}"
        path.mkdir()
        stack.callback(remove_cgroup, path)
        yield path


def remove_cgroup(path):
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)


class Unit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.mkdtemp()
        cls.addClassCleanup(os.rmdir, scratch)
        files = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        files.chmod(0o755)
        for file in BIN / "wharf", BIN / "wharfd", ROOT / "deploy/wharfd.toml", ROOT / "deploy/wharfd.service":
            shutil.copy(file, files)
        shutil.copy(os.environ["WHARF_FRONTEND"], files / "wharf-frontend")
        cgroup = cls.enterClassContext(new_cgroup())
        boot = "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child=KILL", "--propagation=private", "--"
        cls.log = tempfile.TemporaryFile("w+")
        cls.addClassCleanup(cls.log.close)
        cls.boot = subprocess.Popen(
            [*boot, ROOT / "tests/deploy/boot.sh"], stdin=subprocess.DEVNULL, stdout=cls.log, stderr=cls.log, start_new_session=True,
            env={**os.environ, "FILES": str(files), "ENGINE": str(SOCKET.parent), "SCRATCH": scratch, "CGROUP": str(cgroup)})
        cls.addClassCleanup(cls.end)
        cls.wait_for("systemd", lambda: cls.systemd() and cls.on_node("systemctl is-system-running --wait", check=False) in
                     ("running\n", "degraded\n"))
        # The engine's package does the same.
        cls.on_node("groupadd --force --system docker")
        SOCKET.chmod(0o660)
        os.chown(SOCKET, 0, int(cls.on_node("getent group docker").split(":")[2]))
        (install,) = re.findall(r"(?s)## As a systemd unit\n.*?```sh\n(.*?)```", PAGE)
        cls.said = cls.on_node("cd /srv/wharf\n" + install)
        cls.restarts = cls.show("NRestarts")

    @classmethod
    def end(cls):
        # Its parent ends after it, and it ends after everything in its namespace.
        os.kill(int(cls.systemd() or cls.boot.pid), signal.SIGKILL)
        cls.boot.wait()

    @classmethod
    def systemd(cls):
        """The first process of the node."""
        children = pathlib.Path(f"/proc/{cls.boot.pid}/task/{cls.boot.pid}/children").read_text().split()
        return children[0] if children else None

    @classmethod
    def wait_for(cls, what, done):
        deadline = time.monotonic() + START_SECONDS
        while not done():
            if cls.boot.poll() is not None or time.monotonic() > deadline:
                cls.log.seek(0)
                raise AssertionError(f"{what} is not ready:\n{cls.log.read()}")
            time.sleep(0.1)

    @classmethod
    def on_node(cls, script, check=True):
        """Runs a script on the node; returns its output."""
        command = "nsenter", f"--target={cls.systemd()}", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--", \
            "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-ec", script
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        if check and done.returncode:
            journal = "" if script.startswith("journalctl") else cls.on_node("journalctl --no-pager --lines=30", check=False)
            raise AssertionError(f"{script}: exit status {done.returncode}\n{done.stdout}\n{journal}")
        return done.stdout

    @classmethod
    def show(cls, name):
        return cls.on_node(f"systemctl show --property={name} --value wharfd").strip()

    def test_it_serves_as_the_page_installs_it(self):
        self.assertIn("You are: uid 0", self.said)
        self.assertEqual(self.show("ActiveState"), "active")
        self.assertEqual(self.restarts, "0")
        for wanted_by in "multi-user.target", "docker.service":
            self.assertIn(wanted_by, self.show("WantedBy"))

    def test_an_agents_user_builds(self):
        self.on_node("mkdir -p /tmp/c && cd /tmp/c && printf 'FROM scratch\\nCOPY Dockerfile /\\n' >Dockerfile && chmod -R a+rX .")
        said = self.on_node(f"{AGENT} build -t app:1 /tmp/c && {AGENT} images")
        self.assertRegex(said, r"(?m)^app +1 ")
        # The agent's Dockerfile was read in a container.
        images = subprocess.run([os.environ["WHARF_DOCKER"], "--host", f"unix://{SOCKET}", "image", "ls", "--format={{.Repository}}"],
                                check=True, text=True, stdout=subprocess.PIPE).stdout
        self.assertRegex(images, r"(?m)^wharf\.invalid/[0-9a-f]+/frontend/")
        # A lookup of hosts works inside the unit, and the refusal works too.
        self.on_node("printf 'FROM scratch\\nADD http://localhost:1/x /\\n' >/tmp/c/Dockerfile")
        said = self.on_node(f"{AGENT} build /tmp/c", check=False)
        self.assertRegex(said, r"(127\.0\.0\.1|::1) is an address of this node")

    def test_it_has_nothing_but_the_engines_group(self):
        status = self.on_node(f"cat /proc/{self.show('MainPID')}/status")
        uid, wharf, docker = (self.on_node(command).strip() for command in (
            "id -u wharf", "getent group wharf | cut -d: -f3", "getent group docker | cut -d: -f3"))
        self.assertRegex(status, rf"(?m)^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$")
        self.assertEqual(set(re.search(r"(?m)^Groups:\t(.*)$", status)[1].split()), {wharf, docker})
        for line in r"CapEff:\t0+", r"CapBnd:\t0+", r"NoNewPrivs:\t1", r"Seccomp:\t2":
            self.assertRegex(status, rf"(?m)^{line}$")
        self.assertEqual(self.on_node("stat -c '%a %U' /var/lib/wharf /var/lib/wharf/node.key"), "700 wharf\n600 wharf\n")

    def test_it_stays_when_the_engine_goes_and_comes(self):
        directory, process = self.on_node("stat -c %i /run/wharf"), self.show("MainPID")
        self.on_node("systemctl restart docker")
        self.assertEqual(self.show("MainPID"), process)
        self.on_node("systemctl stop docker")
        self.assertEqual((self.show("ActiveState"), self.show("MainPID")), ("active", process))
        self.on_node("systemctl start docker && wharf info")
        # Agents have mounted the same directory, even after wharfd itself is restarted.
        self.on_node("systemctl restart wharfd && wharf info")
        self.assertEqual(self.on_node("stat -c %i /run/wharf"), directory)

    def test_it_is_restarted_when_it_dies(self):
        process = self.show("MainPID")
        self.on_node(f"kill -KILL {process}")
        self.wait_for("wharfd", lambda: self.show("ActiveState") == "active" and self.show("MainPID") != process)
        self.on_node("wharf info")

    def test_a_stop_is_clean(self):
        self.on_node("systemctl start wharfd && wharf info && systemctl stop wharfd")
        self.assertEqual((self.show("Result"), self.show("ExecMainStatus")), ("success", "0"))
        self.assertEqual(self.on_node("ls /run/wharf"), "bin\n")
        self.on_node("systemctl start wharfd")


report.main(f"unit [{ENGINE}]")
