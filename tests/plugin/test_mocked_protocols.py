"""Mocks of gRPC calls and of WebSockets, and mocks that depend on what was before."""

from __future__ import annotations


def test_grpc(project):
    project.test(
        """
        import grpc

        def call(method, request=b"hello"):
            with grpc.insecure_channel("grpc.nowhere.example:50051") as channel:
                return channel.unary_unary(method)(request, timeout=20)

        def calls(method, request=b"hello"):
            with grpc.insecure_channel("grpc.nowhere.example:50051") as channel:
                return list(channel.unary_stream(method)(request, timeout=20))

        def test_it(netcapture):
            mock = netcapture.mock("POST", host="grpc.nowhere.example", path="/shop.Shop/Price")
            mock.respond_grpc(b"42", times=1).respond_grpc(status=5, message="none: 100 %")
            assert call("/shop.Shop/Price") == b"42"
            with pytest.raises(grpc.RpcError) as caught:
                call("/shop.Shop/Price")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "none: 100 %"
            netcapture.mock(path="/shop.Shop/List").respond_grpc(b"a", b"", b"c" * 70000)
            assert calls("/shop.Shop/List") == [b"a", b"", b"c" * 70000]
            assert len(netcapture.grpc) == 3
            assert mock.calls.first.request.content[5:] == b"hello"
        """
    )
    project.run().assert_outcomes(passed=1)


def test_websockets(project):
    project.test(
        """
        from websockets.sync.client import connect

        @pytest.mark.parametrize("scheme", ["ws", "wss"])
        def test_it(netcapture, scheme):
            url = f"{scheme}://ticker.nowhere.example/ws"
            netcapture.mock("GET", f"http{scheme[2:]}://ticker.nowhere.example/ws").respond_websocket(
                [("<", "welcome"), (">", {"subscribe": "tea"}), ("<", {"tea": 450}), ("<", b"raw")]
            )
            with connect(url) as socket:
                assert socket.recv(timeout=20) == "welcome"
                socket.send('{"subscribe":  "tea"}')
                assert json.loads(socket.recv(timeout=20)) == {"tea": 450}
                assert socket.recv(timeout=20) == b"raw"
            flow = netcapture.websockets.one()
            assert [message.text for message in flow.sent] == ['{"subscribe":  "tea"}']
            assert flow.origin.value == "mocked"

        def test_something_else_is_said(netcapture):
            netcapture.mock("GET", host="ticker.nowhere.example").respond_websocket([(">", "tea")])
            try:
                with connect("ws://ticker.nowhere.example/ws") as socket:
                    socket.send("coffee")
                    socket.recv(timeout=20)
            except Exception:
                pass

        def test_what_is_no_talk(netcapture):
            netcapture.mock("GET", "http://a.example/ws").respond_websocket(["welcome"])
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2, failed=2)
    text = result.stdout.str()
    said = "message 1 of the client is not the one that is awaited by the mock of "
    assert f"{said}GET with host='ticker.nowhere.example', made at test_it.py:" in text
    assert "tea" in text
    assert "respond_websocket: 'welcome' is nothing to say" in text


def test_state(project):
    project.test(
        """
        import urllib.error

        CART = URL + "/cart"

        def test_a_cart(netcapture):
            full = netcapture.mock("GET", CART).when(cart="full").respond(json=["tea"])
            netcapture.mock("GET", CART).respond(json=[])
            netcapture.mock("POST", CART).respond(201, sets={"cart": "full"})
            netcapture.mock("DELETE", CART).respond(204, sets={"cart": ""})
            assert get("/cart") == "[]"
            get("/cart", method="POST", data=b"tea")
            assert get("/cart") == '["tea"]'
            assert get("/cart") == '["tea"]'
            get("/cart", method="DELETE")
            assert get("/cart") == "[]"
            assert len(full.calls) == 2

        def test_it_begins_anew(netcapture):
            netcapture.mock("GET", CART).when(cart="full").respond(json=["tea"])
            netcapture.mock("GET", CART).respond(json=[])
            assert get("/cart") == "[]"

        def test_what_is_no_state(netcapture):
            netcapture.mock("GET", CART).when(cart=1)
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2, failed=1)
    assert "netcapture.mock(...).when: 'cart': 1 is no state" in result.stdout.str()


def test_names(project):
    project.test(
        """
        import dns.resolver

        def records(name, kind):
            return [one.to_text() for one in dns.resolver.resolve(name, kind, lifetime=20)]

        @pytest.mark.netcapture(block=True, allow=["loopback"])
        def test_it(netcapture):
            netcapture.mock_dns("db.nowhere.example", "A", "10.1.2.3", "10.1.2.4", ttl=5)
            netcapture.mock_dns("*.mail.example", "MX", "10 one.mail.example.")
            netcapture.mock_dns("*.mail.example", "TXT", '"v=spf1 -all"')
            found = socket.getaddrinfo("db.nowhere.example", 1, type=socket.SOCK_STREAM)
            assert {one[4][0] for one in found} == {"10.1.2.3", "10.1.2.4"}
            assert records("my.mail.example", "MX") == ["10 one.mail.example."]
            assert records("my.mail.example", "TXT") == ['"v=spf1 -all"']
            with pytest.raises(dns.resolver.NoAnswer):
                records("my.mail.example", "SRV")
            assert netcapture.dns.last.origin.value == "mocked"
            netcapture.mock_dns("db.nowhere.example", "A", "10.9.9.9")
            assert socket.gethostbyname("db.nowhere.example") == "10.9.9.9"

        def test_what_is_no_record(netcapture):
            netcapture.mock_dns("db.nowhere.example", "A", "localhost")

        def test_what_is_no_type(netcapture):
            netcapture.mock_dns("db.nowhere.example", "AX", "localhost")
        """
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=2)
    assert "'localhost' is no A record" in result.stdout.str()
    assert "'AX' is no type of record" in result.stdout.str()
