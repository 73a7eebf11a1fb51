"""Show the messages of a gRPC call by the names of its schema, given a descriptor set.

A descriptor set is what `protoc --include_imports --descriptor_set_out=FILE` writes. It is read by
the protobuf package, which whoever has a gRPC client in Python has; here it is imported when asked.
"""

from __future__ import annotations

import os
from typing import Any

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import GrpcFlow


class Descriptors:
    """A descriptor set from a file. Raises `UsageError` when it cannot be used."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            from google.protobuf import descriptor_pb2, descriptor_pool
        except ImportError:
            raise UsageError(
                "messages by name need the protobuf package", cure="pip install protobuf"
            ) from None
        self._path = os.fspath(path)
        self._pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet()
        try:
            with open(self._path, "rb") as file:
                files.ParseFromString(file.read())
            for each in files.file:
                self._pool.Add(each)
        except OSError as error:
            raise UsageError(f"{self._path}: {error.strerror}") from None
        except Exception as error:  # protobuf's own are of several kinds
            raise self._unusable(str(error)) from None

    def _unusable(self, reason: str) -> UsageError:
        return UsageError(
            f"{self._path}: not a descriptor set: {reason}",
            cure="write one: protoc --include_imports --descriptor_set_out=FILE FILE.proto",
        )

    def messages(self, call: GrpcFlow) -> list[dict[str, Any]]:
        """Return the messages of `call`, the client's first, as JSON has them."""
        from google.protobuf import json_format, message_factory

        try:
            method = self._pool.FindMethodByName(f"{call.service}.{call.method}")
        except KeyError:
            raise UsageError(
                f"{self._path} has no method {call.service}/{call.method}",
                cure="add the .proto file that defines it to the descriptor set",
            ) from None
        out = []
        for message in call.messages:
            kind = method.input_type if message.sent else method.output_type
            parsed = message_factory.GetMessageClass(kind)()
            parsed.ParseFromString(message.data)
            out.append(json_format.MessageToDict(parsed, preserving_proto_field_name=True))
        return out
