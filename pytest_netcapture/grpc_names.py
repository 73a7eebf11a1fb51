"""Show the messages of a gRPC call by the names of its schema.

1. A schema comes from a descriptor set, which `protoc --include_imports --descriptor_set_out=FILE`
   writes, or from what a server has said of itself (grpc.reflection.v1 and v1alpha: the answer's
   field 4 has files in field 1).
2. It is read by the protobuf package, which whoever has a gRPC client in Python has; here it is
   imported when asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import Flow, GrpcFlow
from pytest_netcapture.grpc_messages import contents_of

_REFLECTION = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
_FILES_ANSWER, _FILE = 4, 1


class Descriptors:
    """A descriptor set from a file, or from the reflection calls among flows.

    Raises `UsageError` when it cannot be used.
    """

    def __init__(self, source: str | os.PathLike[str] | Iterable[Flow]) -> None:
        try:
            from google.protobuf import descriptor_pb2, descriptor_pool
        except ImportError:
            raise UsageError(
                "messages by name need the protobuf package", cure="pip install protobuf"
            ) from None
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else ""
        self._source = path or "what was seen of reflection"
        self._pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet()
        try:
            if isinstance(source, (str, os.PathLike)):
                with open(source, "rb") as file:
                    files.ParseFromString(file.read())
            else:
                for content in dict.fromkeys(_reflected(source)):
                    files.file.add().ParseFromString(content)
            _add(self._pool, list(files.file))
        except OSError as error:
            raise UsageError(f"{self._source}: {error.strerror}") from None
        except Exception as error:  # protobuf's own are of several kinds
            raise self._unusable(str(error)) from None

    def _unusable(self, reason: str) -> UsageError:
        return UsageError(
            f"{self._source}: not a descriptor set: {reason}",
            cure="write one: protoc --include_imports --descriptor_set_out=FILE FILE.proto",
        )

    def messages(self, call: GrpcFlow) -> list[dict[str, Any]]:
        """Return the messages of `call`, the client's first, as JSON has them."""
        from google.protobuf import json_format, message_factory

        try:
            method = self._pool.FindMethodByName(f"{call.service}.{call.method}")
        except KeyError:
            raise UsageError(
                f"{self._source} has no method {call.service}/{call.method}",
                cure="add the .proto file that defines it to the descriptor set",
            ) from None
        out = []
        for message in call.messages:
            kind = method.input_type if message.sent else method.output_type
            parsed = message_factory.GetMessageClass(kind)()
            parsed.ParseFromString(message.data)
            out.append(json_format.MessageToDict(parsed, preserving_proto_field_name=True))
        return out


def _reflected(flows: Iterable[Flow]) -> Iterable[bytes]:
    """Yield the files, serialized, that servers have answered with."""
    for flow in flows:
        if isinstance(flow, GrpcFlow) and flow.service in _REFLECTION:
            for message in flow.responses:
                for answer in contents_of(message.data, _FILES_ANSWER):
                    yield from contents_of(answer, _FILE)


def _add(pool: Any, files: list[Any]) -> None:
    """Add each file after those that it imports: a server may answer in any order."""
    waiting = {file.name: file for file in files}

    def add(name: str) -> None:
        file = waiting.pop(name, None)
        if file is not None:
            for other in file.dependency:
                add(other)
            pool.Add(file)

    for file in files:
        add(file.name)
