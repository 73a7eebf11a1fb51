"""Messages of a call by the names of their schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import Body, GrpcFlow, HttpRequest, HttpResponse

descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")


@pytest.fixture
def descriptors(tmp_path: Path) -> Path:
    """service Talk { rpc Say(Word) returns (Word); }  message Word { string text = 1; }"""
    file = descriptor_pb2.FileDescriptorProto(name="talk.proto", package="test", syntax="proto3")
    word = file.message_type.add(name="Word")
    word.field.add(name="text", number=1, type=9, label=1)
    service = file.service.add(name="Talk")
    service.method.add(name="Say", input_type=".test.Word", output_type=".test.Word")
    path = tmp_path / "talk.pb"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    return path


def call(target: str = "/test.Talk/Say") -> GrpcFlow:
    def body(text: bytes) -> Body:
        message = bytes((10, len(text))) + text
        return Body(data=b"\0\0\0\0" + bytes((len(message),)) + message)

    request = HttpRequest(
        method="POST", scheme="https", host="a", port=443, target=target, body=body(b"hi")
    )
    return GrpcFlow(request=request, response=HttpResponse(status=200, body=body(b"you")))


def test_messages_have_names(descriptors: Path) -> None:
    assert call().named(descriptors) == [{"text": "hi"}, {"text": "you"}]


def reflection(*files: bytes, version: str = "v1") -> GrpcFlow:
    """An answer with files, as servers give it."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 1 << 14
        return bytes((number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7)) + content

    content = field(4, b"".join(field(1, file) for file in files))
    body = Body(data=b"\0" + len(content).to_bytes(4, "big") + content)
    flow = call(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    flow.response = HttpResponse(status=200, body=body)
    return flow


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_names_that_a_server_has_told(descriptors: Path, version: str) -> None:
    """The file that is imported comes behind the one that imports it, and twice."""
    (talk,) = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    word = descriptor_pb2.FileDescriptorProto(name="word.proto", package="test", syntax="proto3")
    word.message_type.append(talk.message_type[0])
    del talk.message_type[:]
    talk.dependency.append("word.proto")
    files = [file.SerializeToString() for file in (talk, word, word)]
    flows = [call(), reflection(*files, version=version)]
    assert call().named(flows) == [{"text": "hi"}, {"text": "you"}]


def test_a_server_that_has_told_nothing() -> None:
    with pytest.raises(
        UsageError, match=r"what was seen of reflection has no method test\.Talk/Say"
    ):
        call().named([call()])


def test_a_server_that_has_told_nonsense() -> None:
    with pytest.raises(UsageError, match="what was seen of reflection: not a descriptor set"):
        call().named([reflection(b"\xff\xff\xff")])


def test_a_method_that_is_not_there(descriptors: Path) -> None:
    with pytest.raises(UsageError, match=r"has no method test\.Talk/Shout"):
        call("/test.Talk/Shout").named(descriptors)


@pytest.mark.parametrize("content", [None, b"not a descriptor set"])
def test_a_file_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.pb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.pb: "):
        call().named(path)
