#!/usr/bin/env python3
"""Builds a directory with Wharf and pushes the image, by stubs made from the published protos.

    cd examples/python && pip install grpcio grpcio-status grpcio-tools
    python3 -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. ../../proto/wharf/v1/*.proto
    ./build.py ADDRESS JOB RUN REFERENCE DIRECTORY [ARG=VALUE ...]

ADDRESS is unix:///run/wharf/wharf.sock. REGISTRY_USER and REGISTRY_PASSWORD log in to REFERENCE's registry.
Exit status: 0 pushed, 1 the build failed, 2 bad usage, 3 not allowed, 4 anything else, 130 Ctrl-C.
"""
import os
import sys
import tarfile
import threading

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from wharf.v1 import build_pb2, build_pb2_grpc, namespace_pb2, registry_pb2

STATUS = {grpc.StatusCode.PERMISSION_DENIED: 3, grpc.StatusCode.UNAUTHENTICATED: 3, grpc.StatusCode.INVALID_ARGUMENT: 2}


def requests(start, directory):
    """Yields the start, then the directory as a tar, which is made while it is sent."""
    yield build_pb2.BuildRequest(start=start)
    read, write = os.pipe()
    failed = []

    def pack():
        try:
            with os.fdopen(write, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
                tar.add(directory, arcname=".")
        except Exception as error:  # Raised below: an exception here would only end this thread.
            failed.append(error)

    packing = threading.Thread(target=pack, daemon=True)
    packing.start()
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while piece := pipe.read(256 * 1024):
            yield build_pb2.BuildRequest(tar=piece)
    packing.join()
    if failed:  # Raising it cancels the build: half a tar must not look like a whole one.
        raise failed[0]


def printable(text):
    """A job's output, made safe for a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def follow(responses):
    """Shows the progress; returns the last response, which contains the result."""
    shown = set()
    for response in responses:
        for step in response.progress.vertexes:
            if step.HasField("completed") and step.digest not in shown:
                shown.add(step.digest)
                print("ERROR" if step.error else "CACHED" if step.cached else "DONE", printable(step.name), flush=True)
        for log in response.progress.logs:
            for line in log.data.decode(errors="replace").splitlines():
                print("  |", printable(line), flush=True)
    return response


def build(address, job, run, reference, directory, *arguments):
    """Builds and pushes; returns the exit status."""
    login = registry_pb2.RegistryCredentials(
        host=reference.split("/")[0], username=os.environ.get("REGISTRY_USER", ""),
        password=os.environ.get("REGISTRY_PASSWORD", ""))
    start = build_pb2.BuildStart(
        namespace=namespace_pb2.Namespace(job=job, run=run), credentials=[login] if login.username else [],
        spec=build_pb2.BuildSpec(tags=[reference], push=True, build_args=dict(word.split("=", 1) for word in arguments)))
    with grpc.insecure_channel(address) as channel:
        try:
            end = follow(build_pb2_grpc.BuildServiceStub(channel).Build(requests(start, directory)))
        except grpc.RpcError as error:
            error.__traceback__ = None  # It keeps the call until the program's exit, where gRPC can hang as it frees the call.
            print(f"{error.code().name}: {printable(error.details())}", file=sys.stderr)
            for detail in getattr(rpc_status.from_call(error), "details", ()):
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):  # Its reason is one of ErrorReason's, for programs to act on.
                    print(f"{info.reason}:", *map(printable, map(": ".join, info.metadata.items())), file=sys.stderr)
            return STATUS.get(error.code(), 4)
        except KeyboardInterrupt:  # Leaving the channel's block ends the call, and so the build.
            return 130
    if end.HasField("failure"):
        print("failed:", printable(end.failure.message), file=sys.stderr)
        return 1
    print(*(f"pushed {pushed.reference}@{pushed.digest}" for pushed in end.result.pushed), sep="\n")
    return 0


if __name__ == "__main__":
    usable = len(sys.argv) > 5 and os.path.isdir(sys.argv[5]) and all("=" in word for word in sys.argv[6:])
    sys.exit(build(*sys.argv[1:]) if usable else print(__doc__, file=sys.stderr) or 2)
