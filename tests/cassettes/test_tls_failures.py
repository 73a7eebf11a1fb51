"""TLS handshakes that failed: which one is met next, and what counts as played."""

from pytest_netcapture.flows import FlowError, TcpFlow, TlsFailure

EXPIRED, ALERT = "certificate has expired", "handshake_failure"
PLACE = (["api.example.com"], 443)


def failure(detail, side="server", **more):
    error = FlowError("tls", detail)
    return TlsFailure(
        host="192.0.2.7",
        sni="api.example.com",
        port=443,
        side=side,
        detail=detail,
        error=error,
        **more,
    )


def next_detail(cassette):
    found = cassette.tls_failure(*PLACE)
    return found and found.detail


def test_a_bad_certificate_stays(record, open_cassette, flow_of):
    record(failure(EXPIRED, certificate=b"der"), flow_of())
    cassette = open_cassette("none")
    assert cassette.tls_failure(*PLACE).certificate == b"der"
    assert [str(flow) for flow in cassette.unused][1:] == [str(failure(EXPIRED))]
    assert cassette.tls_failed(*PLACE)
    assert len(cassette.unused) == 1
    assert next_detail(cassette) == EXPIRED
    assert cassette.tls_failed(*PLACE)
    assert cassette.played == 2


def test_an_alert_comes_as_often_as_recorded(record, open_cassette, flow_of):
    record(failure(ALERT), flow_of())
    cassette = open_cassette("none")
    assert next_detail(cassette) == ALERT
    assert cassette.tls_failed(*PLACE)
    assert next_detail(cassette) is None


def test_an_alert_stays_where_nothing_else_is_known(record, open_cassette):
    record(failure(ALERT))
    cassette = open_cassette("none")
    cassette.tls_failed(*PLACE)
    assert next_detail(cassette) == ALERT


def test_a_clients_refusal_is_not_the_servers(record, open_cassette):
    record(failure("unknown_ca", side="client"))
    cassette = open_cassette("none")
    assert next_detail(cassette) is None
    assert cassette.unused == []
    assert cassette.tls_failed(*PLACE)


def test_other_places_and_modes_have_none(record, open_cassette):
    record(failure(EXPIRED))
    cassette = open_cassette("none")
    assert cassette.tls_failure(["other.example"], 443) is None
    assert cassette.tls_failure(["api.example.com"], 444) is None
    assert not cassette.tls_failed(["other.example"], 443)
    assert open_cassette("all").tls_failure(*PLACE) is None


def test_an_opaque_connection_that_was_reset_is_no_failed_connection(record, open_cassette):
    record(
        TcpFlow(host="h", port=443, sni="h", reason="untrusted", error=FlowError("reset"), sent=9)
    )
    cassette = open_cassette("none")
    assert cassette.connection_error("h", (), "", 443) is None
    assert cassette.knows("h", 443)
    assert cassette.unused == []
