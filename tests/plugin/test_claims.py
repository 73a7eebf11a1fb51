"""Claims about encryption and retries, with real handshakes and a real client."""

from __future__ import annotations


def test_encryption_and_retries(project):
    project.test(
        """
        import ssl, urllib.error

        def test_versions(netcapture):
            get("/x")
            netcapture.assert_encrypted(at_least="1.3")
            old = ssl.create_default_context()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            urllib.request.urlopen(URL + "/y", context=old, timeout=20).read()
            assert [flow.tls_version for flow in netcapture.http] == ["TLSv1.3", "TLSv1.2"]
            netcapture.assert_encrypted(at_least="1.2")
            with pytest.raises(AssertionError, match="expected TLS 1.3 or later, seen TLSv1.2"):
                netcapture.assert_encrypted(at_least="1.3")

        def test_plain(netcapture):
            urllib.request.urlopen("http://api.example.com/x", timeout=20).read()
            netcapture.assert_encrypted(path="/elsewhere")
            netcapture.assert_encrypted()

        def test_curl_retries(netcapture):
            netcapture.mock("GET", URL + "/job").respond(503, times=2).respond(json={"a": 1})
            command = ["curl", "-sS", "--retry", "3", "--retry-delay", "1", URL + "/job"]
            assert subprocess.run(command, capture_output=True).stdout == b'{"a":1}'
            netcapture.assert_retried("GET", URL + "/job", times=2)

        def test_snapshot(netcapture):
            get("/x?at=1700000000", method="POST", data=b'{"n": 1}')
            assert netcapture.snapshot() == [
                {
                    "method": "POST",
                    "url": URL + "/x",
                    "query": {"at": "<epoch>"},
                    "form": {'{"n": 1}': ""},
                }
            ]
        """
    )
    result = project.run()
    result.assert_outcomes(passed=3, failed=1)
    text = result.stdout.str()
    assert "expected no plaintext, seen 1 flow: anything" in text
    assert "GET http://api.example.com/x → 200" in text
