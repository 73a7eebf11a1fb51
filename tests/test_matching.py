"""What each criterion means, one table a criterion; the nearest; what is refused."""

from __future__ import annotations

import re
from unittest.mock import ANY
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import (
    Body,
    Difference,
    DnsFlow,
    Headers,
    HttpFlow,
    HttpRequest,
    HttpResponse,
    Process,
    SqlFlow,
    TcpFlow,
    TlsFailure,
)
from pytest_netcapture.matching import Criteria, nearest
from pytest_netcapture.patterns import glob, json_misses
from pytest_netcapture.postgresql_answers import packed
from pytest_netcapture.urls import canonical_path


def label(value):
    """Name a case the same way in every process: no address of an object."""
    return re.sub(r"<function (\S+) at [^>]+>", r"\1", str(value))[:60]


def exchange(
    method="GET",
    url="https://api.example.com/v1/items?page=2&tag=a&tag=b",
    body=b"",
    headers=(),
    status=200,
    **fields,
):
    parts = urlsplit(url)
    request = HttpRequest(
        method=method,
        scheme=parts.scheme,
        host=parts.hostname,
        port=parts.port or {"http": 80, "https": 443}[parts.scheme],
        target=f"{parts.path or '/'}?{parts.query}".removesuffix("?"),
        headers=Headers(list(headers)),
        body=Body(size=len(body), data=body),
    )
    response = HttpResponse(status=status) if status else None
    return HttpFlow(request=request, response=response, **fields)


URLS = [
    # exact
    ("https://api.example.com/v1/items?page=2&tag=a&tag=b", True),
    ("https://api.example.com/v1/items?tag=b&page=2&tag=a", True),
    ("HTTPS://API.Example.com:443/v1/items", True),
    ("https://user:secret@api.example.com/v1/items#part", True),
    ("https://api.example.com/v1/items", True),
    ("https://api.example.com/v1/items?page=2", False),
    ("https://api.example.com/v1/items?page=2&tag=a&tag=b&more=1", False),
    ("https://api.example.com/v1/items?page=3&tag=a&tag=b", False),
    ("https://api.example.com/v1/items/", False),
    ("https://api.example.com/V1/items", False),
    ("https://api.example.com", False),
    ("https://api.example.com:8443/v1/items", False),
    ("http://api.example.com/v1/items", False),
    ("https://api.example.org/v1/items", False),
    ("https://api.example.com/v1/%69tems", True),
    # without scheme or host
    ("/v1/items", True),
    ("/v1/items?page=2&tag=b&tag=a", True),
    ("/v1", False),
    ("//api.example.com/v1/items", True),
    ("api.example.com/v1/items", True),
    ("api.example.com:443/v1/items", True),
    ("api.example.com:80/v1/items", False),
    # globs
    ("https://*.example.com/v1/*", True),
    ("https://*/v1/items", True),
    ("https://api.example.com/*", True),
    ("https://api.example.com*", True),
    ("https://api.*", True),
    ("https://*", True),
    ("*://api.example.com/v1/items", True),
    ("http*://api.example.com/v1/items", True),
    ("https://api.example.com:*/v1/items", True),
    ("/v1/*", True),
    ("/v?/item?", True),
    ("/v1/item?/", False),
    ("/v1/*?page=2&tag=*&tag=b", True),
    ("/v1/items?page=2&*", True),
    ("/v1/items?page=3&*", False),
    ("/v1/items?*", True),
    ("*example.com/v1*", True),
    ("*page=2*", True),
    ("*/items", True),
    ("*.org/*", False),
    ("https://*.org/*", False),
    # other forms
    (re.compile(r"/v\d/items"), True),
    (re.compile(r"^http:"), False),
    (lambda url: url.endswith("tag=b"), True),
    (lambda url: url.startswith("ftp"), False),
]


@pytest.mark.parametrize(("url", "matches"), URLS, ids=label)
def test_url(url, matches):
    assert Criteria.of("GET", url).matches(exchange()) is matches


@pytest.mark.parametrize(
    ("url", "wanted", "matches"),
    [
        ("http://[::1]:8080/x", "http://[::1]:8080/x", True),
        ("http://[::1]:8080/x", "http://[::1]/x", False),
        ("https://h.example", "https://h.example/", True),
        ("https://h.example/", "https://h.example", True),
        ("https://h.example/?wsdl", "https://h.example?wsdl", True),
        ("https://h.example/service?wsdl", "/service?wsdl", True),
        ("https://h.example/service?wsdl", "/service?other", False),
        ("https://h.example/a%20b/%7ex", "/a b/~x", True),
        ("https://h.example/a%2fb", "/a%2Fb", True),
        ("https://h.example/a%2fb", "/a/b", False),
        ("https://xn--bcher-kva.example/", "https://bücher.example/", True),
        ("https://h.example/x?q=a+b", "/x?q=a%20b", True),
        ("https://h.example/x?q=", "/x?q=", True),
    ],
)
def test_equivalent_urls(url, wanted, matches):
    assert Criteria.of(None, wanted).matches(exchange(url=url)) is matches


CRITERIA = [
    ({"method": "get"}, True),
    ({"method": "POST"}, False),
    ({"method": "G*"}, True),
    ({"scheme": "https"}, True),
    ({"host": "API.example.com."}, True),
    ({"host": "*.example.com"}, True),
    ({"host": "example.com"}, False),
    ({"host": re.compile("example")}, True),
    ({"port": 443}, True),
    ({"port": {80, 443}}, True),
    ({"port": range(400, 443)}, False),
    ({"port": lambda port: port < 1024}, True),
    ({"path": "/v1/items"}, True),
    ({"path": "/v1/*"}, True),
    ({"path": "*items"}, True),
    ({"path": "/v1"}, False),
    ({"path": re.compile("items$")}, True),
    ({"query": {"page": 2}}, True),
    ({"query": {"page": "2", "tag": "b"}}, True),
    ({"query": {"tag": ["b", "a"]}}, True),
    ({"query": [("tag", "a"), ("tag", "b")]}, True),
    ({"query": {"tag": ["a", "a"]}}, False),
    ({"query": {"page": None}}, False),
    ({"query": {"other": None}}, True),
    ({"query": {"page": "*"}}, True),
    ({"query": {"other": "*"}}, False),
    ({"query": {"page": 2}, "exact": True}, False),
    ({"query": {"page": 2, "tag": ["a", "b"]}, "exact": True}, True),
    ({"query": {"page": 2, "tag": "a"}, "exact": True}, False),
    ({"headers": {"x-ID": "abc"}}, True),
    ({"headers": {"X-Id": "a*"}}, True),
    ({"headers": {"x-id": re.compile("^b")}}, False),
    ({"headers": {"x-id": lambda value: len(value) == 3}}, True),
    ({"headers": {"x-id": None}}, False),
    ({"headers": {"cookie": None}}, True),
    ({"headers": {"accept": "text/html, text/plain"}}, True),
    ({"headers": {"accept": "text/plain"}}, True),
    ({"body": b'{"a": 1}'}, True),
    ({"body": '{"a": 1}'}, True),
    ({"body": '{"a":1}'}, False),
    ({"body": re.compile(rb"\d")}, True),
    ({"body": re.compile("b")}, False),
    ({"body": lambda body: body.startswith(b"{")}, True),
    ({"body": None}, False),
    ({"json": {"a": 1}}, True),
    ({"status": 200}, True),
    ({"status": "2xx"}, True),
    ({"status": range(400, 600)}, False),
    ({"status": None}, False),
    ({"process": "curl"}, True),
    ({"process": "cu*"}, True),
    ({"process": "/usr/bin/curl"}, True),
    ({"process": 7}, True),
    ({"process": 8}, False),
    ({"process": lambda process: process.pid == 7}, True),
    ({"where": lambda flow: flow.request.method == "GET"}, True),
    ({"where": lambda flow: None}, False),
    ({"name": "api.example.com"}, False),
    ({}, True),
]


@pytest.mark.parametrize(("criteria", "matches"), CRITERIA, ids=label)
def test_criterion(criteria, matches):
    flow = exchange(
        body=b'{"a": 1}',
        headers=[("X-Id", "abc"), ("Accept", "text/html"), ("accept", "text/plain")],
        process=Process(7, "curl", ("/usr/bin/curl", "-s")),
    )
    wanted = Criteria.of(**criteria)
    assert wanted.matches(flow) is matches
    assert bool(wanted.differences(flow)) is not matches


JSON = [
    ({}, {"a": 1}, True),
    ({"a": 1}, {"a": 1, "b": 2}, True),
    ({"a": 1.0}, {"a": 1}, True),
    ({"a": True}, {"a": 1}, False),
    ({"a": 1}, {"a": True}, False),
    ({"a": None}, {"a": None}, True),
    ({"a": None}, {}, False),
    ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
    ({"a": [1, 2]}, {"a": [1, 2, 3]}, False),
    ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, True),
    ({"a": (1, 2)}, {"a": [1, 2]}, True),
    ({"a": "x*"}, {"a": "xy"}, False),
    ({"a": re.compile("^x")}, {"a": "xy"}, True),
    ({"a": re.compile("1")}, {"a": 1}, False),
    ({"a": str, "b": int}, {"a": "x", "b": 1}, True),
    ({"a": int}, {"a": True}, False),
    ({"a": lambda value: value > 1}, {"a": 2}, True),
    ({"a": ANY}, {"a": [True]}, True),
    ([], [], True),
    ([], {}, False),
    (None, None, True),
    (1, 1, True),
]


@pytest.mark.parametrize(("wanted", "actual", "matches"), JSON, ids=label)
def test_json(wanted, actual, matches):
    assert (not list(json_misses(wanted, actual))) is matches


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(json_values)
def test_json_matches_itself(value):
    assert not list(json_misses(value, value))
    assert not list(json_misses(value, value, exact=True))


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, min_size=1), st.data())
def test_json_object_matches_what_has_more(value, data):
    dropped = data.draw(st.sampled_from(sorted(value)))
    fewer = {key: one for key, one in value.items() if key != dropped}
    assert not list(json_misses(fewer, value))
    assert list(json_misses(value, fewer))
    assert list(json_misses(fewer, value, exact=True))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["*", "?", "a", "b", "[", ".", "\n"])), st.text("ab[.\n"))
def test_glob_agrees_with_the_obvious_definition(pattern, text):
    def obvious(pattern, text):
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(obvious(pattern[1:], text[i:]) for i in range(len(text) + 1))
        return bool(text) and pattern[0] in ("?", text[0]) and obvious(pattern[1:], text[1:])

    pattern, text = pattern[:6], text[:6]
    assert bool(glob("".join(pattern)).fullmatch(text)) is obvious(pattern, text)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_canonical_path_is_canonical(path):
    once = canonical_path(path)
    assert canonical_path(once) == once
    assert once.isascii()


def test_a_url_glob_matches_its_own_expansions():
    url_part = st.text("abc-/", max_size=8)

    @settings(deadline=None)
    @given(url_part, url_part)
    def expands(head, tail):
        flow = exchange(url=f"https://h.example/{head}/x/{tail}")
        assert Criteria.of(None, "https://h.example/*/x/*").matches(flow)

    expands()


@pytest.mark.parametrize(
    ("body", "form", "exact", "matches"),
    [
        (b"a=1&b=2", {"a": 1}, False, True),
        (b"a=1&b=2", {"a": 1}, True, False),
        (b"a=x+y", {"a": "x y"}, False, True),
        (b"a=1", {"b": None}, False, True),
        (b"", {"a": "1"}, False, False),
    ],
)
def test_form(body, form, exact, matches):
    assert Criteria.of(form=form, exact=exact).matches(exchange(body=body)) is matches


@pytest.mark.parametrize(
    ("criteria", "matches"),
    [
        ({"name": "API.example.com."}, True),
        ({"name": "*.example.com"}, True),
        ({"type": "a", "rcode": "noerror"}, True),
        ({"rcode": "NXDOMAIN"}, False),
        ({"host": "127.0.0.53", "port": 53}, True),
        ({"path": "/"}, False),
    ],
    ids=label,
)
def test_dns(criteria, matches):
    flow = DnsFlow(host="127.0.0.53", port=53, name="api.Example.com", type="A", rcode="NOERROR")
    assert Criteria.of(**criteria).matches(flow) is matches


def test_a_connection_is_known_by_name_sni_and_address():
    flow = TcpFlow(host="cdn.example", port=443, sni="www.example", address=("192.0.2.7", 443))
    for host in ("cdn.example", "www.example", "192.0.2.7", "192.0.*"):
        assert Criteria.of(host=host, port=443).matches(flow)
    assert Criteria.of(host="x.example").matches(TlsFailure(side="client", sni="x.example"))


def test_unanswered_is_status_none():
    assert Criteria.of(status=None).matches(exchange(status=0))


def test_bodies_are_looked_at_last_and_only_when_the_rest_agrees():
    seen = []
    criteria = Criteria.of(body=lambda body: seen.append(body) or True, method="POST")
    assert not criteria.matches(exchange())
    assert not seen


def test_differences_name_each_part():
    flow = exchange("PUT", "http://api.example.com:8080/v2?page=1", body=b'{"a": {"b": [1, 2]}}')
    wanted = Criteria.of(
        "POST",
        "https://api.example.com/v1?page=2",
        headers={"accept": "*"},
        json={"a": {"b": [1, 3]}, "c": re.compile("x")},
    )
    assert wanted.differences(flow) == [
        Difference("method", "POST", "PUT"),
        Difference("scheme", "https", "http"),
        Difference("port", "443", "8080"),
        Difference("path", "/v1", "/v2"),
        Difference("query.page", "2", "1"),
        Difference("headers.accept", "*", "(absent)"),
        Difference("json.a.b[1]", "3", "2"),
        Difference("json.c", "re.compile('x')", "(absent)"),
    ]


@pytest.mark.parametrize(
    ("body", "actual"), [(b"<html>", "not JSON: <html>"), (b"", "(empty)"), (b"[1]", "[1]")]
)
def test_what_is_not_that_json(body, actual):
    found = Criteria.of(json={"a": 1}).differences(exchange(body=body))
    assert found == [Difference("json", '{"a": 1}', actual)]


def test_a_kind_that_has_no_such_field_differs():
    found = Criteria.of(path="/").differences(TcpFlow(host="h", port=1))
    assert found == [Difference("path", "/", "(tcp has no path)")]


@pytest.mark.parametrize(
    ("args", "criteria", "text"),
    [
        (("POST", "/v1"), {}, "POST /v1"),
        (("POST", "/v1"), {"json": {"a": "é"}}, 'POST /v1 with json={"a": "é"}'),
        ((), {"host": "*.x", "port": 1}, "host='*.x', port=1"),
        ((), {"json": [1], "exact": True}, "json=[1], exact=True"),
        ((None, re.compile("x")), {}, "re.compile('x')"),
        ((), {}, "anything"),
    ],
)
def test_describe(args, criteria, text):
    assert Criteria.of(*args, **criteria).describe() == text


def test_describe_names_a_callable_by_place():
    assert re.fullmatch(
        r"<lambda>\(\) at test_matching\.py:\d+", Criteria.of(lambda flow: True).describe()
    )


def test_nearest_ranks_host_and_path_first():
    wanted = Criteria.of("POST", "https://api.example.com/v1/items", json={"a": 1, "b": 2})
    flows = [
        exchange("POST", "https://other.example.org/else"),
        exchange("POST", "https://api.example.com/v1/items", body=b'{"a": 1, "b": 3}', id=1),
        exchange("GET", "https://api.example.com/v1/items", id=2),
        exchange("POST", "https://api.example.com/v1/item", id=3),
        DnsFlow(name="api.example.com", type="A"),
    ]
    assert [one.flow.id for one in nearest(flows, wanted)] == [1, 3, 2]
    assert nearest(flows, wanted, limit=1)[0].differences == [Difference("json.b", "2", "3")]


def test_nearest_leaves_out_what_matches_and_what_is_far():
    flows = [exchange(), exchange(url="http://far.test/away")]
    assert nearest(flows, Criteria.of("GET", "https://api.example.com/v1/items")) == []


def test_nearest_of_equals_is_the_latest():
    flows = [exchange(id=number) for number in range(5)]
    assert [one.flow.id for one in nearest(flows, Criteria.of("GET", "/v1/item"), 2)] == [4, 3]


def test_nearest_looks_at_few_bodies():
    seen = []
    flows = [exchange(id=number, body=b"x") for number in range(500)]
    wanted = Criteria.of(path="/v1/items", body=seen.append)
    assert len(nearest(flows, wanted)) == 3
    assert len(seen) < 50


REFUSED = [
    (("https://x/",), {}, "p: the first argument is the method, and 'https://x/' is none", "url="),
    (("GET", "/x"), {"url": "/y"}, "p: url is given twice", "leave out url="),
    ((), {"pth": "/x"}, "p: unknown criterion 'pth'", "did you mean 'path'?"),
    ((None, "GET /x"), {}, "p: url: 'GET /x' has a method in the url", 'write "GET", "/x"'),
    ((None, ""), {}, "p: url: '' is not a url", "https://host/path"),
    ((None, "https://h:x/"), {}, "p: url: 'h:x' is not a host or host:port", "https://host/path"),
    ((5,), {}, "p: method: 5 is an int", "re.compile"),
    (
        (),
        {"host": "https://h/"},
        "p: host: 'https://h/' is more than a host",
        "write url='https://h/'",
    ),
    ((), {"host": "h:80"}, "p: host: 'h:80' is a host and a port", "write host='h', port=80"),
    ((), {"host": ""}, "p: host: an empty string matches nothing", '"*"'),
    ((), {"port": "80"}, "p: port: '80' is not a number", "write 80"),
    ((), {"port": True}, "p: port: True is not a number", "a range"),
    ((), {"path": "v1"}, "p: path: 'v1' is not a path", "write '/v1'"),
    ((), {"path": "/x?a=1"}, "p: path: '/x?a=1' has a query", "write url='/x?a=1'"),
    ((), {"path": re.compile(b"x")}, "p: path: re.compile(b'x') is a pattern of bytes", "b prefix"),
    ((), {"query": "a=1"}, "p: query: 'a=1' is not names and values", 'write {"name": "value"}'),
    ((), {"query": {"a": True}}, "p: query.a: True has no one spelling", '"true" or "True"'),
    ((), {"query": ["a"]}, "p: query: 'a' is not a name and a value", '("name", "value")'),
    ((), {"json": {1: 2}}, "p: json: JSON keys are strings, 1 is not", "write '1'"),
    ((), {"json": {"a": [b"x"]}}, "p: json.a[0]: bytes is not a JSON type", "string"),
    ((), {"body": {"a": 1}}, "p: body: a body is not a dict", "write json={'a': 1}"),
    ((), {"process": 1.5}, "p: process: a process is not a float", "a name or a pid"),
    ((), {"where": "x"}, "p: where: a str cannot be called", "a function"),
    ((), {"exact": True}, "p: exact=True has nothing to apply to", "json="),
    ((), {"json": 1, "exact": 1}, "p: exact=1 is not True or False", "exact=True"),
    ((), {"status": "9xx"}, "p: status: '9xx' is not a number", "a range"),
]


@pytest.mark.parametrize(("args", "criteria", "message", "cure"), REFUSED, ids=label)
def test_what_could_never_match_is_refused(args, criteria, message, cure):
    method, url = (*args, None, None)[:2]
    with pytest.raises(UsageError) as caught:
        Criteria.build(method, url, criteria, place="p")
    assert caught.value.message == message
    assert cure in caught.value.cure


def test_a_criterion_of_another_kind_is_refused_where_the_kind_is_known():
    with pytest.raises(UsageError) as caught:
        Criteria.build(None, None, {"nam": "x"}, place="p", kind=DnsFlow)
    assert str(caught.value) == (
        "p: unknown criterion 'nam'\n"
        "  cure: did you mean 'name'? known: host, name, port, process, rcode, type, where"
    )
    with pytest.raises(UsageError, match="dns flows have no 'path'"):
        Criteria.build(None, None, {"path": "/x"}, place="p", kind=DnsFlow)


class TestParts:
    """`name__contains`, of every criterion that has parts, and of lists."""

    @pytest.mark.parametrize(
        ("criteria", "agrees"),
        [
            ({"path__contains": "items"}, True),
            ({"path__contains": "orders"}, False),
            ({"host__contains": "example"}, True),
            ({"url__contains": "page=2"}, True),
            ({"body__contains": "needle"}, True),
            ({"body__contains": b"needle"}, True),
            ({"body__contains": "other"}, False),
            ({"path__contains": "*"}, False),
        ],
        ids=label,
    )
    def test_of_an_exchange(self, criteria, agrees):
        flow = exchange("POST", body=b"hay needle hay")
        assert Criteria.of(**criteria).matches(flow) is agrees

    @pytest.mark.parametrize(
        ("criteria", "agrees"),
        [
            ({"statement__contains": "INSERT INTO orders"}, True),
            ({"statement": "INSERT*"}, True),
            ({"statement__contains": "DELETE"}, False),
            ({"parameters": [7, "apple"]}, True),
            ({"parameters": [int, str]}, True),
            ({"parameters": [7]}, False),
            ({"parameters__contains": "apple"}, True),
            ({"parameters__contains": 8}, False),
            ({"parameters": lambda values: len(values) == 2}, True),
            ({"database": "shop", "user": "app", "service": "postgresql"}, True),
            ({"database": "other"}, False),
        ],
        ids=label,
    )
    def test_of_a_statement(self, criteria, agrees):
        flow = SqlFlow(
            service="postgresql",
            session="app@shop",
            step="execute",
            question="INSERT INTO orders VALUES ($1, $2)",
            values=[b"7", b"apple"],
            notes={"types": packed([23, 25])},
        )
        assert Criteria.of(**criteria).matches(flow) is agrees

    def test_what_differs_is_shown(self):
        flow = SqlFlow(service="postgresql", question="SELECT 1", values=[b"x"])
        wanted = Criteria.of(statement__contains="DELETE", parameters=["y"])
        assert [(d.field, d.recorded, d.actual) for d in wanted.differences(flow)] == [
            ("statement__contains", "(contains) DELETE", "SELECT 1"),
            ("parameters", "['y']", "['x']"),
        ]

    @pytest.mark.parametrize(
        ("criteria", "text"),
        [
            ({"port__contains": 1}, "port__contains: it has no parts"),
            ({"path__contains": ""}, "everything contains an empty string"),
            ({"path__contains": 3}, "3 is an int"),
            ({"path__like": "a"}, "unknown lookup 'path__like'"),
            ({"statment__contains": "a"}, "unknown criterion 'statment'"),
            ({"parameters": "a"}, "a str is not a list"),
        ],
    )
    def test_what_is_refused(self, criteria, text):
        with pytest.raises(UsageError, match=re.escape(text)):
            Criteria.of(**criteria)
