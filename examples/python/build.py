#!/usr/bin/env python3
"""Builds a directory with Wharf and pushes the image, through stubs made from the published protos.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. ../../proto/wharf/v1/*.proto
    ./build.py unix:///run/wharf/wharf.sock acme/app 42 registry.example.com/app:1 DIRECTORY [ARG=VALUE ...]

Exit status: 0 built and pushed, 1 the build failed, 3 refused, 4 wharfd cannot be reached or failed.
"""
import os
import sys
import tarfile
import threading

import grpc
from grpc_status import rpc_status
from google.rpc import error_details_pb2

from wharf.v1 import build_pb2, build_pb2_grpc, namespace_pb2, registry_pb2

PIECE = 256 * 1024


def requests(start, directory):
    """The start, then the directory as a tar, made while it is sent."""
    yield build_pb2.BuildRequest(start=start)
    read, write = os.pipe()

    def pack():
        with os.fdopen(write, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
            tar.add(directory, arcname=".")

    threading.Thread(target=pack, daemon=True).start()
    with os.fdopen(read, "rb") as pipe:
        while piece := pipe.read(PIECE):
            yield build_pb2.BuildRequest(tar=piece)


def follow(responses):
    """Shows what happens; gives the last response, which says how it ended."""
    shown = set()
    for response in responses:
        if response.WhichOneof("response") != "progress":
            return response
        for vertex in response.progress.vertexes:
            if vertex.HasField("completed") and vertex.digest not in shown:
                shown.add(vertex.digest)
                print("CACHED" if vertex.cached else "done  ", ascii(vertex.name)[1:-1])
        for log in response.progress.logs:
            print("      |", ascii(log.data.decode(errors="replace").rstrip())[1:-1])
    return None


def main(address, job, run, reference, directory, *arguments):
    credentials = []
    if user := os.environ.get("REGISTRY_USER"):
        host = reference.split("/")[0]
        credentials.append(registry_pb2.RegistryCredentials(
            host=host, username=user, password=os.environ["REGISTRY_PASSWORD"]))
    start = build_pb2.BuildStart(
        namespace=namespace_pb2.Namespace(job=job, run=run),
        credentials=credentials,
        spec=build_pb2.BuildSpec(
            tags=[reference], push=True, build_args=dict(argument.split("=", 1) for argument in arguments)))
    with grpc.insecure_channel(address) as channel:
        try:
            end = follow(build_pb2_grpc.BuildServiceStub(channel).Build(requests(start, directory)))
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            for detail in getattr(rpc_status.from_call(error), "details", ()):
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    print(info.reason, info.metadata.get("hint", ""), file=sys.stderr)
            return 3 if error.code() == grpc.StatusCode.PERMISSION_DENIED else 4
    if end is not None and end.HasField("result"):
        print(f"pushed {end.result.pushed[0].reference}@{end.result.pushed[0].digest}")
        return 0
    print("failed:", end.failure.message if end else "no answer", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
