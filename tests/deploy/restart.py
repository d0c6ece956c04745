"""An engine that is restarted under wharfd."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

import manifest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/lib"))
import report  # noqa: E402

ENGINE = os.environ["ENGINE"]
SOCKET = os.environ[f"WHARF_ENGINE_{ENGINE}"]
BIN = pathlib.Path(os.environ["WHARF_BIN_DIR"])
with tempfile.TemporaryDirectory() as files:
    ALIVE = manifest.wharfd(files, "").probes["livenessProbe"]
START_SECONDS = 60
BUSYBOX = "busybox-on-the-node:1"


def run(*command, **options):
    return subprocess.run([*map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180, **options)


def engine(verb):
    done = run(ROOT / "scripts/env", verb, *([ENGINE, ENGINE] if verb == "up" else [ENGINE]))
    assert done.returncode == 0, done.stdout


class Restart(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="w")))
        self.context = self.dir / "context"
        self.context.mkdir()
        # An image on the node: this test is not about registries.
        tree = self.dir / "tree/bin"
        tree.mkdir(parents=True)
        (tree / "busybox").write_bytes(pathlib.Path(os.environ["WHARF_BUSYBOX"]).read_bytes())
        (tree / "busybox").chmod(0o755)
        for command in "sh", "sleep", "echo":
            (tree / command).symlink_to("busybox")
        tar = subprocess.Popen(["tar", "-C", tree.parent, "-c", "."], stdout=subprocess.PIPE)
        subprocess.run([os.environ["WHARF_DOCKER"], "--host", f"unix://{SOCKET}", "import", "-", BUSYBOX],
                       stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL)
        tar.wait()

    def start(self, name, socket, *before):
        """A wharfd called `name`, and the start of its client's command; it is ready when this returns."""
        address = f"unix://{self.dir}/{name}.sock"
        log = open(self.dir / f"{name}.log", "a+")
        self.addCleanup(log.close)
        config = self.dir / "wharfd.toml"
        config.write_text('frontend = "builtin"\n[[serve]]\nuid = 0\nnamespaces = "deploy/*"\n')
        process = subprocess.Popen([*before, BIN / "wharfd", "--config", config, "--listen", address, "--engine", f"unix://{socket}",
                                    "--state-dir", self.dir / f"{name}.state"], stdout=log, stderr=log)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        client = BIN / ALIVE[0].split("/")[-1], "--addr", address, "--namespace", "deploy/restart#1"
        self.wait_for(process, lambda: run(*client, *ALIVE[1:]).returncode == 0, log)
        return process, client

    def wait_for(self, process, done, log):
        deadline = time.monotonic() + START_SECONDS
        while not done():
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise AssertionError(f"wharfd is not ready:\n{log.read()}")
            time.sleep(0.05)

    def build(self, client, dockerfile):
        (self.context / "Dockerfile").write_text(dockerfile)
        return run(*client, "build", "--progress=plain", self.context)

    def test_wharfd_survives_and_the_running_build_is_told(self):
        process, client = self.start("by-path", SOCKET)
        done = self.build(client, f"FROM {BUSYBOX}\nRUN echo before\n")
        self.assertEqual(done.returncode, 0, done.stdout)

        (self.context / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN echo it-runs; sleep 1000\n")
        running = subprocess.Popen([*map(str, client), "build", "--progress=plain", self.context],
                                   text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        seen = []
        for line in running.stdout:
            seen.append(line)
            if re.search(r"^#\d+ [\d.]+ it-runs", line):
                break
        else:
            self.fail("the step did not start: " + "".join(seen))
        engine("down")
        rest = running.stdout.read()
        running.stdout.close()
        self.assertEqual(running.wait(60), 5, "".join(seen) + rest)
        self.assertIn("the engine", rest)

        alive = run(*client, *ALIVE[1:])
        self.assertEqual(alive.returncode, 5, alive.stdout)
        self.assertIn("is down: ", alive.stdout)
        done = self.build(client, "FROM scratch\nCOPY Dockerfile /\n")
        self.assertEqual(done.returncode, 5, done.stdout)

        engine("up")
        done = self.build(client, f"FROM {BUSYBOX}\nRUN echo after\n")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(run(*client, *ALIVE[1:]).returncode, 0)
        self.assertIsNone(process.poll(), "it is the same wharfd")

    def test_an_engine_of_another_version_is_taken_up(self):
        path = self.dir / "engine.sock"
        path.symlink_to(SOCKET)
        process, client = self.start("upgraded", path)
        engine("down")
        self.addCleanup(engine, "up")
        path.unlink()
        path.symlink_to(os.environ["OTHER_ENGINE"])
        # On a busy machine the engine is found later than a call waits for it.
        deadline = time.monotonic() + 60
        while (alive := run(*client, *ALIVE[1:])).returncode == 5 and time.monotonic() < deadline:
            pass
        self.assertEqual(alive.returncode, 0, alive.stdout)
        other = "classic" if ENGINE == "29" else "containerd"
        self.assertIn(f"Image store: {other}", alive.stdout)
        done = self.build(client, "FROM scratch\nCOPY Dockerfile /\n")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIsNone(process.poll(), "it is the same wharfd")

    def test_a_mounted_socket_goes_stale_and_the_liveness_probe_sees_it(self):
        """Tests the DaemonSet's comment about an engine that makes a new socket at its start."""
        mounted = self.dir / "docker.sock"
        mounted.touch()
        mount = "unshare", "--mount", "--propagation=private", "--", "sh", "-c", \
            f'mount --bind {SOCKET} {mounted} && exec "$@"', "-"
        process, client = self.start("mounted", mounted, *mount)
        engine("down")
        engine("up")
        alive = run(*client, *ALIVE[1:])
        self.assertEqual(alive.returncode, 5, alive.stdout)
        # The kubelet does this then.
        process.terminate()
        self.assertEqual(process.wait(60), 0)
        _, client = self.start("mounted", mounted, *mount)
        done = self.build(client, f"FROM {BUSYBOX}\nRUN echo after\n")
        self.assertEqual(done.returncode, 0, done.stdout)


report.main(f"restart [{ENGINE}]")
