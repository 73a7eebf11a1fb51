"""No secret reaches a file: the fifteen places, every encoding, streams, and what must survive."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_netcapture.cassettes.scrub import Scrubber
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.flows import Body, DnsAnswer, DnsFlow, Headers
from pytest_netcapture.settings import Filters

JSON = (("Content-Type", "application/json"),)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)


def scrubber(environ=None, **filters):
    return Scrubber(Secrets.from_environ(environ or {}), Filters(**filters), b"salt")


def secret(number):
    return f"s3cr3t-value-{number:02}-zq"


def basic(number):
    return base64.b64encode(f"user:{secret(number)}".encode()).decode()


PLACES = {
    "Authorization": lambda f, s: f(headers=[("Authorization", f"Bearer {s}")]),
    "Cookie": lambda f, s: f(headers=[("Cookie", f"a=1; session={s}")]),
    "X-Api-Key": lambda f, s: f(headers=[("X-Api-Key", s)]),
    "X-Acme-Token": lambda f, s: f(headers=[("X-Acme-Token", s)]),
    "query api_key": lambda f, s: f(target=f"/?api_key={s}&q=1"),
    "query sig": lambda f, s: f(target=f"/?q=1&sig={s}"),
    "path segment": lambda f, s: f(target=f"/hooks/{s}/send"),
    "basic auth in the URL": lambda f, s: f(
        headers=[("Authorization", "Basic " + base64.b64encode(f"user:{s}".encode()).decode())]
    ),
    "JSON request password": lambda f, s: f(
        "POST", headers=JSON, body=b'{"password": "%s"}' % s.encode()
    ),
    "JSON nested acme_key": lambda f, s: f(
        "POST", headers=JSON, body=b'{"a": [{"acme_key": "%s"}]}' % s.encode()
    ),
    "form password": lambda f, s: f("POST", headers=FORM, body=b"user=u&password=" + s.encode()),
    "JSON response access_token": lambda f, s: f(answer=b'{"access_token": "%s"}' % s.encode()),
    "JSON response session_key": lambda f, s: f(
        answer=b'{"data": {"session_key": "%s"}}' % s.encode()
    ),
    "Set-Cookie": lambda f, s: f(answer_headers=[("Set-Cookie", f"sid={s}; Path=/; HttpOnly")]),
    "plain-text response": lambda f, s: f(answer=b"your token is " + s.encode(), answer_headers=()),
}


def leaks(record, flow_of, folder, environ):
    flows = [make(flow_of, secret(number)) for number, make in enumerate(PLACES.values())]
    record(*flows, environ=environ)
    content = b"".join(p.read_bytes() for p in folder.iterdir() if p.is_file())
    return [
        place
        for number, place in enumerate(PLACES)
        if secret(number).encode() in content or basic(number)[8:-4].encode() in content
    ]


def test_none_of_the_fifteen_places_leaks_a_known_value(record, flow_of, tmp_path):
    environ = {f"ACME_{number}_TOKEN": secret(number) for number in range(len(PLACES))}
    assert len(PLACES) == 15
    assert leaks(record, flow_of, tmp_path, environ) == []


def test_at_most_two_places_leak_an_unknown_value(record, flow_of, tmp_path):
    assert set(leaks(record, flow_of, tmp_path, {})) <= {"path segment", "plain-text response"}


SECRET_TEXT = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=6, max_size=30
).filter(lambda s: not re.fullmatch(r"[\d.,_+\-]+", s) and "/" not in s[:1] and s.strip() == s)
ENCODINGS = {
    "raw": lambda s: s,
    "percent": lambda s: quote(s, safe=""),
    "percent lower": lambda s: re.sub("%..", lambda m: m.group().lower(), quote(s, safe="")),
    "json": lambda s: json.dumps(s)[1:-1],
    "json utf-8": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "hex": lambda s: s.encode().hex(),
    "HEX": lambda s: s.encode().hex().upper(),
}


@settings(deadline=None, max_examples=150)
@given(value=SECRET_TEXT, before=st.binary(max_size=20), after=st.binary(max_size=20))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_secret_survives_in_no_encoding(encoding, value, before, after):
    hidden = ENCODINGS[encoding](value).encode()
    scrubbed = Scrubber(Secrets([value]), Filters(), b"s").content(before + hidden + after, "", [])
    assert hidden not in scrubbed.replace(before, b"", 1) or hidden in before + b"scrubbed-" + after


@settings(deadline=None, max_examples=200)
@given(value=SECRET_TEXT, offset=st.integers(0, 5), urlsafe=st.booleans())
def test_a_secret_survives_in_no_base64_alignment(value, offset, urlsafe):
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    hidden = encode(b"u" * offset + value.encode() + b":tail")
    scrubbed = Scrubber(Secrets([value]), Filters(), b"s").content(b"x " + hidden + b" y", "", [])
    assert b"scrubbed-" in scrubbed


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 60_000), size=st.integers(1, 40_000))
def test_a_secret_across_borders_of_a_stream(cut, size):
    value = b"very-secret-value"
    data = b"a" * cut + value + b"b" * (90_000 - cut) + b"AKIAABCDEFGHIJKLMNOP"
    data += b" AKIAABCDEFGHIJKLMNOP "
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    one = Scrubber(Secrets([value]), Filters(), b"s")
    out = b"".join(one.stream(pieces))
    assert value not in out
    assert b" AKIA" not in out
    assert out == one.text(data)


def test_basic_credentials_of_a_known_password_in_any_header(flow_of):
    flow = flow_of(headers=[("X-Forwarded-Auth-Echo", "x"), ("X-Echo", f"Basic {basic(1)}")])
    scrubbed = scrubber({"DB_PASSWORD": secret(1)}).flow(flow)
    assert basic(1)[8:-4] not in scrubbed.request.headers["x-echo"]


def test_dns_names_are_scrubbed():
    flow = DnsFlow(
        name="abcdef123.example.com",
        type="A",
        answers=[DnsAnswer("abcdef123.example.com", "A", 1, "1.1.1.1")],
    )
    scrubbed = scrubber({"MY_TOKEN": "AbCdEf123"}).flow(flow)
    assert scrubbed.name.startswith("scrubbed-")
    assert scrubbed.answers[0].name == scrubbed.name


def test_the_live_flow_is_not_changed(flow_of):
    flow = flow_of(
        "POST",
        "/?token=abcdefgh1",
        headers=[*JSON, ("Authorization", "Bearer q1w2e3r4")],
        body=b'{"password": "pass1234"}',
    )
    before = msgspec.msgpack.encode(flow)
    assert scrubber().flow(flow) is not flow
    assert msgspec.msgpack.encode(flow) == before


def test_a_flow_without_secrets_is_returned_itself(flow_of):
    flow = flow_of("POST", "/a?b=c", headers=JSON, body=b'{"a": "b"}')
    assert scrubber().flow(flow) is flow


def test_a_token_of_a_response_is_known_in_a_later_path(flow_of):
    one = scrubber()
    login = one.flow(flow_of(answer=b'{"access_token": "tok-1234567"}'))
    later = one.flow(flow_of("GET", "/by/tok-1234567/x"))
    tag = login.response.json()["access_token"]
    assert re.fullmatch("scrubbed-[0-9a-f]{10}", tag)
    assert later.request.target == f"/by/{tag}/x"


def test_a_header_s_secret_that_the_answer_repeats(flow_of):
    scrubbed = scrubber().flow(
        flow_of(headers=[("X-Api-Key", "k-123456-z")], answer=b"hello k-123456-z")
    )
    assert b"k-123456-z" not in scrubbed.response.content


def test_tags_are_stable_and_differ_by_salt():
    assert (
        scrubber().tag(b"v")
        == scrubber().tag(b"v")
        != Scrubber(Secrets(), Filters(), b"other").tag(b"v")
    )
    assert scrubber().tag(scrubber().tag(b"v")) == scrubber().tag(b"v")


def test_numbers_structure_and_format_of_json_survive(flow_of):
    body = b'{ "max_tokens": 12,\n  "password" : "pw-1234",  "n": [1, 2.50, null, true], "auth": {"type": "x"} }'
    content = scrubber().flow(flow_of("POST", headers=JSON, body=body)).request.content
    assert re.sub(rb"scrubbed-[0-9a-f]{10}", b"pw-1234", content) == body


def test_scheme_cookie_names_and_attributes_survive(flow_of):
    headers = [("Authorization", "Bearer abc"), ("Cookie", "a=1; b=2")]
    answer = [("Set-Cookie", "sid=abc; Path=/; Secure"), ("Set-Cookie", "sid=; Max-Age=0")]
    scrubbed = scrubber().flow(flow_of(headers=headers, answer_headers=answer))
    assert scrubbed.request.headers["authorization"].startswith("Bearer scrubbed-")
    assert re.fullmatch("a=scrubbed-.{10}; b=scrubbed-.{10}", scrubbed.request.headers["cookie"])
    first, second = scrubbed.response.headers.get_all("set-cookie")
    assert re.fullmatch("sid=scrubbed-.{10}; Path=/; Secure", first)
    assert second == "sid=; Max-Age=0"


def test_urls_in_headers_and_bodies(flow_of):
    flow = flow_of(
        answer=b'{"next": "https://h/x?page=2&api_key=abcd1234"}',
        answer_headers=[
            *JSON,
            ("Location", "https://h/cb?code=1&access_token=abcd5678"),
            ("X-Db", "pg://u:hunter22x@h/d"),
        ],
    )
    text = msgspec.msgpack.encode(scrubber().flow(flow))
    assert not any(leak in text for leak in (b"abcd1234", b"abcd5678", b"hunter22x"))
    assert "page=2" in scrubber().flow(flow).response.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"password": "hunter2xx"',
        b'{"password": "hunter2xx',
        b'data: {"password": "hunter2xx"}\n\ndata: [DONE]\n\n',
        b'{"a":1}\n{"token":"hunter2xx"}\n',
        b'{"a": "{\\"secret\\": \\"hunter2xx\\"}"}',
        b'{"passwords": ["hunter2xx", "b"]}',
        b'["a", ":", "b", {"password": "hunter2xx"}]',
        b'{"note": "say \\"password\\": ", "password": "hunter2xx"}',
    ],
)
def test_malformed_streamed_and_nested_json(body):
    assert b"hunter2xx" not in scrubber().content(body, "application/json", [])


def test_multipart_fields():
    body = (
        b'--XX\r\nContent-Disposition: form-data; name="password"\r\n\r\nhunter2xx\r\n'
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="key.txt"\r\n\r\nplain\r\n--XX--\r\n'
    )
    scrubbed = scrubber().content(body, "multipart/form-data", [])
    assert b"hunter2xx" not in scrubbed
    assert b"plain" in scrubbed


@pytest.mark.parametrize(
    "token",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "github_pat_11ABCDEFG0abcdefghijklmnop_qrstuv",
        "sk-proj-abcdefghijklmnopqrstuv",
        "sk_live_abcdefghijklmnop",
        "xoxb-1234567890-abcdefghij",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "glpat-abcdefghijklmnopqrst",
        "npm_abcdefghijklmnopqrstuvwxyz0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA1234\nabcdefgh\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_known_shapes_anywhere(token, flow_of):
    flow = flow_of(
        target="/" + quote(token), answer=f"it is {token}, ok".encode(), answer_headers=()
    )
    scrubbed = scrubber().flow(flow)
    assert token not in scrubbed.response.text
    if token.replace("-", "").replace("_", "").replace(".", "").isalnum():
        assert token not in scrubbed.request.target


def test_chunk_borders_move_with_the_text():
    body = Body(0, b"", chunks=[])
    pieces = [b'data: {"n": 1}\n\n', b'data: {"token": "abcdefgh-1"}\n\n', b"data: end\n\n"]
    body = Body(
        sum(map(len, pieces)), b"".join(pieces), chunks=[len(p) for p in pieces], gaps=[0, 1, 2]
    )
    scrubbed = scrubber().body(body, Headers([]))
    first, second, third = scrubbed.chunks
    assert scrubbed.data[:first] == pieces[0]
    assert scrubbed.data[first + second :] == pieces[2]
    assert sum(scrubbed.chunks) == scrubbed.size == len(scrubbed.data)
    assert scrubbed.gaps == [0, 1, 2]
    assert third == len(pieces[2])


def test_content_length_follows(flow_of):
    flow = flow_of(answer=b'{"token": "x"}', answer_headers=[*JSON, ("Content-Length", "14")])
    scrubbed = scrubber().flow(flow)
    assert scrubbed.response.headers["content-length"] == str(scrubbed.response.body.size) != "14"


def test_filters_add_and_keep():
    one = scrubber(
        headers=("X-Plan",),
        query=("q",),
        form=("f",),
        json=("pin",),
        values=("literal-1",),
        keep=("token",),
    )
    headers = one.headers(Headers([("x-plan", "gold"), ("Token", "t")]))
    assert headers["x-plan"].startswith("scrubbed-")
    assert headers["token"] == "t"
    assert one.target("/?q=1&token=2").startswith("/?q=scrubbed-")
    assert one.target("/?q=1&token=2").endswith("&token=2")
    assert one.content(b'{"pin": 1234, "token": "t", "x": "literal-1"}', "", []).startswith(
        b'{"pin": 0, "token": "t", "x": "scrubbed-'
    )
    assert b"f=scrubbed-" in one.content(b"f=1&g=2", FORM[0][1], [])


def test_a_large_body_is_scrubbed(record, open_cassette, flow_of, tmp_path):
    value = "large-secret-1"
    content = (b"0123456789" * 150_000) + value.encode() + b"z" * 1_000_000
    (tmp_path / "spool.bin").write_bytes(content)
    flow = flow_of(answer_headers=[("Content-Length", str(len(content)))])
    flow.response.body = Body(len(content), path=str(tmp_path / "spool.bin"), chunks=[len(content)])
    record(flow, environ={"A_TOKEN": value})
    played = open_cassette("none").play_http(flow.request)
    body = played.response.body
    assert value.encode() not in body.content
    assert b"scrubbed-" in body.content
    assert body.size == len(body.content) == int(played.response.headers["content-length"])


def test_a_secret_learned_anywhere_is_found_everywhere(flow_of):
    value = "k-123456-zz"
    flow = flow_of(
        target=f"/{value}",
        headers=[("X-Before", value), ("X-Api-Key", value)],
        answer=f"<{value}>".encode(),
        answer_headers=[("X-Echo", value)],
    )
    one = scrubber()
    for _ in range(2):
        assert value.encode() not in msgspec.msgpack.encode(one.flow(flow))


PARTS = st.sampled_from(["path", "query", "header", "body", "answer", "answer header", "dns"])


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    value=st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_+/= ", min_size=8, max_size=24).filter(
        lambda s: s.strip() == s and re.search(r"\d", s) and not s.startswith("/")
    ),
    part=PARTS,
    encoding=st.sampled_from(sorted(ENCODINGS)),
)
def test_a_known_secret_is_in_no_part_of_a_stored_flow(flow_of, value, part, encoding):
    hidden = ENCODINGS[encoding](value)
    flow = flow_of(
        "POST",
        "/a/"
        + (hidden.replace(" ", "%20") if part == "path" else "")
        + ("?q=" + hidden if part == "query" else ""),
        headers=[("X-One", "x" + hidden)] if part == "header" else (),
        body=f'{{"note": "{hidden}"}}'.encode() if part == "body" else b"",
        answer=f"before {hidden} after".encode() if part == "answer" else b"",
        answer_headers=[("X-Two", hidden + ".")] if part == "answer header" else (),
    )
    if part == "dns":
        flow = DnsFlow(name=hidden.lower() + ".example.com", type="A")
    scrubbed = Scrubber(Secrets([value]), Filters(), b"s").flow(flow)
    stored = msgspec.msgpack.encode(scrubbed)
    assert hidden.encode() not in stored
    assert b"scrubbed-" in stored or part == "dns"


@pytest.mark.parametrize("value", ["s3cr3t-value-1", "s3cr3t-value-1 more", "s3cr3t-value-1  x"])
def test_a_token_is_not_taken_for_a_scheme(flow_of, value):
    for environ in ({}, {"A_TOKEN": "s3cr3t-value-1"}):
        scrubbed = scrubber(environ).flow(flow_of(headers=[("Authorization", value)]))
        assert "s3cr3t" not in scrubbed.request.headers["authorization"]


def test_an_error_half_way_does_not_stop_scrubbing(flow_of, tmp_path):
    one = scrubber({"A_TOKEN": "s3cr3t-value-1"})
    broken = flow_of("GET", "/")
    broken.response.body = Body(10, path=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        one.flow(broken)
    assert "s3cr3t" not in one.flow(flow_of("GET", "/s3cr3t-value-1")).request.target
