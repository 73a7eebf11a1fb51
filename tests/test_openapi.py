"""What is read out of OpenAPI documents."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_netcapture.errors import UsageError
from pytest_netcapture.openapi import operations

SERVER = "https://api.example.com/v1"


def document(paths, **more):
    return {"openapi": "3.1.0", "servers": [{"url": SERVER}], "paths": paths, **more}


def answer_of(schema, **more):
    responses = {"200": {"content": {"application/json": {"schema": schema}}}}
    (one,) = operations(document({"/x": {"get": {"responses": responses}}}, **more), None)
    return json.loads(one.body)


def test_operations_and_their_urls():
    paths = {
        "/users/{id}": {"get": {"operationId": "user"}, "delete": {"responses": {"204": {}}}},
        "/users/me": {"get": {}},
        "/files/{name}.txt": {
            "get": {"responses": {"default": {"content": {"text/plain": {"example": "hi"}}}}}
        },
    }
    found = {one.name: one for one in operations(document(paths), None)}
    assert list(found) == ["GET /users/me", "user", "DELETE /users/{id}", "GET /files/{name}.txt"]
    user = found["user"].url
    assert user.search(f"{SERVER}/users/7")
    assert user.search(f"{SERVER}/users/7?full=1")
    assert not user.search(f"{SERVER}/users/7/x")
    assert not user.search("https://other.example.com/v1/users/7")
    assert found["DELETE /users/{id}"].status == 204
    text = found["GET /files/{name}.txt"]
    assert (text.status, text.body, text.headers) == (200, b"hi", {"Content-Type": "text/plain"})


def test_made_up_answers():
    article = {
        "type": "object",
        "properties": {
            "id": {"type": "integer", "minimum": 5},
            "name": {"type": "string", "example": "tea"},
            "kind": {"enum": ["leaf", "bag"]},
            "made": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": ["string", "null"]}},
            "parent": {"$ref": "#/components/schemas/article"},
        },
    }
    made = answer_of(
        {"$ref": "#/components/schemas/article"}, components={"schemas": {"article": article}}
    )
    assert made.pop("parent")["name"] == "tea"
    assert made == {"id": 5, "name": "tea", "kind": "leaf", "made": "2020-01-01", "tags": ["text"]}
    parts = [{"properties": {"a": {"type": "boolean"}}}, {"properties": {"b": {"const": 2}}}]
    assert answer_of({"allOf": parts}) == {"a": True, "b": 2}
    assert answer_of({"oneOf": [{"type": "number"}, {}]}) == 1.0


def test_files(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(document({"/x": {"get": {}}})))
    assert [one.name for one in operations(tmp_path / "a.json", None)] == ["GET /x"]
    yaml = pytest.importorskip("yaml", reason="not in CI: PyYAML is of the extra `openapi`")
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(document({"/y": {"get": {}}})))
    assert [one.name for one in operations(str(tmp_path / "a.yaml"), None)] == ["GET /y"]


@pytest.mark.parametrize(
    ("given", "server", "said"),
    [
        ({}, None, "the mapping is no OpenAPI document"),
        ({"swagger": "2.0"}, None, "the mapping is no OpenAPI document"),
        ("/nowhere.json", None, "cannot read /nowhere.json"),
        ({"openapi": "3.0.0", "paths": {}}, None, "'' says of no host"),
        (document({}), "/v1", "'/v1' says of no host"),
        (document({"/x": {"$ref": "other.yaml"}}), None, "other.yaml is not in the document"),
        (document({"/x": {"$ref": "#/paths/~1x"}}), None, "refers to itself"),
    ],
)
def test_what_is_no_document(given, server, said):
    with pytest.raises(UsageError, match=said):
        operations(given, server)


@given(
    st.recursive(
        st.sampled_from(["string", "integer", "object", "array", 1, None, True]),
        lambda inner: (
            st.dictionaries(
                st.sampled_from(["type", "items", "properties", "a", "enum", "allOf", "$ref"]),
                inner,
            )
            | st.lists(inner, max_size=2)
        ),
        max_leaves=8,
    )
)
def test_any_schema_is_read_or_refused(schema):
    with contextlib.suppress(UsageError):
        answer_of(schema)
