"""The example client against a real wharfd, engine and registries."""
import contextlib
import gc
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf import descriptor_pool, message_factory

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/lib"), str(ROOT / "examples/python")]
import build  # noqa: E402
import report  # noqa: E402
from wharf.v1 import build_pb2  # noqa: E402

ADDRESS, REGISTRY, PRIVATE = (os.environ[name] for name in ("WHARF_ADDR", "REGISTRY", "PRIVATE_REGISTRY"))
LOGIN = {name: os.environ.pop(name) for name in ("REGISTRY_USER", "REGISTRY_PASSWORD")}
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
             "application/vnd.oci.image.index.v1+json")


def digest_of(reference):
    """The registry's own answer."""
    host, path, tag = re.fullmatch(r"([^/]+)/(.+):(.+)", reference).groups()
    request = urllib.request.Request(f"http://{host}/v2/{path}/manifests/{tag}", method="HEAD")
    request.add_header("Accept", ", ".join(MANIFESTS))
    with urllib.request.urlopen(request) as response:
        return response.headers["Docker-Content-Digest"]


class Example(unittest.TestCase):
    def setUp(self):
        self.dir = self.enterContext(tempfile.TemporaryDirectory())

    def build(self, dockerfile, *, job="python/app", reference=f"{REGISTRY}/app:1", address=ADDRESS, arguments=(), **login):
        """Runs the example as a program; returns its status, output and errors."""
        pathlib.Path(self.dir, "Dockerfile").write_text(dockerfile)
        command = [sys.executable, ROOT / "examples/python/build.py", address, job, "1", reference, self.dir, *arguments]
        done = subprocess.run(command, env={**os.environ, **login}, capture_output=True, text=True, timeout=120)
        self.assertNotIn("Traceback", done.stderr)
        return done.returncode, done.stdout, done.stderr

    def test_is_less_than_a_hundred_lines(self):
        self.assertLess(len((ROOT / "examples/python/build.py").read_text().splitlines()), 100)

    def test_pushes_what_it_has_built(self):
        pathlib.Path(self.dir, "hello.txt").write_text("hello\n")
        reference = f"{REGISTRY}/python:{os.getpid()}"
        dockerfile = (f"FROM {REGISTRY}/busybox:1\nARG VERSION\nCOPY hello.txt /\n"
                      "RUN cat hello.txt && echo \"version $VERSION\"\n")
        for word in "DONE", "CACHED":
            status, out, err = self.build(dockerfile, reference=reference, arguments=["VERSION=a=b"])
            self.assertEqual((status, err), (0, ""), out)
            self.assertRegex(out, rf"(?m)^{word} .*cat hello.txt")
            self.assertIn(f"pushed {reference}@{digest_of(reference)}\n", out)
            if word == "DONE":
                self.assertRegex(out, "(?m)^  \\| hello$")
                self.assertRegex(out, "(?m)^  \\| version a=b$")

    def test_a_large_context_arrives(self):
        content = os.urandom(3 << 20)
        pathlib.Path(self.dir, "big").write_bytes(content)
        import hashlib
        status, out, err = self.build(f"FROM {REGISTRY}/busybox:1\nCOPY big /\nRUN sha256sum big\n")
        self.assertEqual(status, 0, err)
        self.assertIn(hashlib.sha256(content).hexdigest(), out)

    def test_a_step_that_fails(self):
        status, out, err = self.build(f"FROM {REGISTRY}/busybox:1\nRUN printf 'bad \\033[31m %s\\n' thing && exit 3\n")
        self.assertEqual(status, 1, out + err)
        self.assertRegex(out, r"(?m)^ERROR .*RUN printf")
        self.assertIn("  | bad \\x1b[31m thing\n", out)
        self.assertRegex(err, r"^failed: .*exit code: 3")
        self.assertNotIn("pushed", out)

    def test_a_dockerfile_that_is_wrong(self):
        status, out, err = self.build(f"FROM {REGISTRY}/busybox:1\nRUNN true\n")
        self.assertEqual(status, 1, out + err)
        self.assertRegex(err, r"(?i)^failed: .*RUNN")

    def test_a_url_on_loopback_is_refused(self):
        status, out, err = self.build(f"FROM {REGISTRY}/busybox:1\nADD http://{REGISTRY}/v2/ /\n")
        self.assertEqual(status, 3, out + err)
        self.assertRegex(err, r"(?m)\APERMISSION_DENIED: .*127\.0\.0\.1.*\nSOURCE_DENIED: .+$")

    def test_a_namespace_that_is_not_served_is_refused(self):
        status, out, err = self.build("FROM scratch\nLABEL a=b\n", job="other/app")
        self.assertEqual(status, 3, out + err)
        self.assertRegex(err, r"(?m)\APERMISSION_DENIED: .*`other/app#1`.*\nNAMESPACE_DENIED: .+$")

    def test_credentials(self):
        reference = f"{PRIVATE}/python:1"
        dockerfile = f"FROM {PRIVATE}/busybox:1\nRUN cat where\n"
        wrong = {**LOGIN, "REGISTRY_PASSWORD": "wrong-password"}
        for login in wrong, {}:
            # The first build reads from the registry, the second pushes to it.
            for text in dockerfile, "FROM scratch\nLABEL a=b\n":
                status, out, err = self.build(text, reference=reference, **login)
                self.assertEqual(status, 3, out + err)
                self.assertRegex(err, r"(?m)\APERMISSION_DENIED: .*\nREGISTRY_DENIED: .+$")
                self.assertNotIn("wrong-password", out + err)
        status, out, err = self.build(dockerfile, reference=reference, **LOGIN)
        self.assertEqual((status, err), (0, ""), out)
        self.assertIn(f"pushed {reference}@sha256:", out)
        self.assertNotIn(LOGIN["REGISTRY_PASSWORD"], out)

    def test_no_wharfd(self):
        status, _, err = self.build("FROM scratch\nLABEL a=b\n", address=f"unix://{self.dir}/none.sock")
        self.assertEqual(status, 4, err)
        self.assertTrue(err.startswith("UNAVAILABLE: "), err)

    def test_a_reference_that_is_none(self):
        status, _, err = self.build("FROM scratch\nLABEL a=b\n", reference="UPPER:1")
        self.assertEqual(status, 2, err)
        self.assertRegex(err, r"(?m)\AINVALID_ARGUMENT: `UPPER:1` .*\nINVALID_INPUT:")

    def test_a_refused_call_is_freed_before_the_program_ends(self):
        # Python ends gRPC's threads where they are, perhaps with the lock that freeing a call takes. The tests' refused
        # builds seldom hang by that, so look for the call itself.
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(build.build(ADDRESS, "python/app", "1", "UPPER:1", self.dir), 2)
        self.assertEqual([each for each in gc.get_objects() if isinstance(each, grpc.Call)], [])

    def test_progress_is_shown_at_once_and_ctrl_c_ends_it(self):
        pathlib.Path(self.dir, "Dockerfile").write_text(
            f"FROM {REGISTRY}/busybox:1\nRUN echo started {os.getpid()} && sleep 1000\n")
        command = [sys.executable, build.__file__, ADDRESS, "python/app", "1", f"{REGISTRY}/app:1", self.dir]
        # These tests run as background jobs of a shell, for which SIGINT is ignored.
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        with subprocess.Popen(command, preexec_fn=heard, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            self.assertTrue(any(line == f"  | started {os.getpid()}\n" for line in running.stdout))
            running.send_signal(signal.SIGINT)
            try:
                _, err = running.communicate(timeout=60)
            finally:
                running.kill()
        self.assertEqual((running.returncode, err), (130, ""))

    def test_bad_usage(self):
        for words in [], [ADDRESS, "a", "1", "b", "/no/such/directory"], [ADDRESS, "a", "1", "b", self.dir, "VERSION"]:
            done = subprocess.run([sys.executable, build.__file__, *words], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("build.py ADDRESS JOB RUN REFERENCE DIRECTORY", done.stderr)

    def test_half_a_tar_does_not_look_like_a_whole_one(self):
        with self.assertRaises(FileNotFoundError):
            list(build.requests(build_pb2.BuildStart(), "/no/such/directory"))


class Service(unittest.TestCase):
    def setUp(self):
        self.channel = self.enterContext(grpc.insecure_channel(ADDRESS))

    def test_health(self):
        health = health_pb2_grpc.HealthStub(self.channel)
        for service in "", "wharf.v1.BuildService", "wharf.v1.ImageService", "wharf.v1.NamespaceService", "wharf.v1.NodeService", \
                "engine/default":
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING, service)

    def test_reflection_is_enough_to_call(self):
        reflected = ProtoReflectionDescriptorDatabase(self.channel)
        self.assertLessEqual({"wharf.v1.BuildService", "wharf.v1.NodeService", "grpc.health.v1.Health"},
                             set(reflected.get_services()))
        pool = descriptor_pool.DescriptorPool(reflected)
        service = pool.FindServiceByName("wharf.v1.BuildService")
        published = build_pb2.DESCRIPTOR.services_by_name["BuildService"]
        self.assertEqual([method.name for method in service.methods], [method.name for method in published.methods])
        method = pool.FindServiceByName("wharf.v1.NodeService").FindMethodByName("GetInfo")
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = self.channel.unary_unary(
            "/wharf.v1.NodeService/GetInfo", request.SerializeToString, response.FromString)
        self.assertEqual(call(request()).caller, f"uid {os.getuid()}")


report.main(f"python [{os.environ['ENGINE']}]")
