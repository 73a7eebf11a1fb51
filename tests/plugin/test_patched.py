"""Libraries that change what the test process stands on: clocks, event loop policies."""

from __future__ import annotations

from plugin_lab import Project


def test_frozen_time(project: Project) -> None:
    project.test(
        """
        import datetime as dt
        import freezegun, time_machine
        pytestmark = pytest.mark.cassette
        def check(netcapture, path):
            get(path)
            netcapture.wait_for(path=path, timeout=20)
            netcapture.assert_requested(path=path, times=1)
        @freezegun.freeze_time("2012-01-14")
        def test_freezegun(netcapture):
            check(netcapture, "/frozen")
            assert dt.date.today() == dt.date(2012, 1, 14)
        def test_freezegun_from_a_fixture(freezer_of_ours, netcapture):
            check(netcapture, "/fixture")
        @pytest.fixture
        def freezer_of_ours():
            with freezegun.freeze_time("2030-01-01", tick=True):
                yield
        @time_machine.travel(dt.datetime(1985, 10, 26, tzinfo=dt.timezone.utc), tick=False)
        def test_time_machine(netcapture):
            check(netcapture, "/past")
            assert dt.date.today().year == 1985
        def test_time_machine_and_moving(time_machine, netcapture):
            time_machine.move_to(dt.datetime(2040, 1, 1, tzinfo=dt.timezone.utc))
            check(netcapture, "/future")
        def test_after(netcapture):
            check(netcapture, "/now")
        """
    )
    project.run(use="time_machine").assert_outcomes(passed=5)
    again = project.run("--netcapture-record-mode=none", use="time_machine")
    again.assert_outcomes(passed=5)


def test_event_loop_policies(project: Project) -> None:
    project.test(
        """
        import asyncio, warnings
        import uvloop
        pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
        class Policy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self):
                loop = super().new_event_loop()
                loop.set_debug(True)
                return loop
        async def fetch(path):
            reader, writer = await asyncio.open_connection("api.example.com", 443, ssl=True)
            request = f"GET {path} HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n"
            writer.write(request.encode())
            data = await reader.read()
            writer.close()
            return data
        @pytest.mark.parametrize("policy", [uvloop.EventLoopPolicy, Policy])
        def test_policy(netcapture, policy):
            asyncio.set_event_loop_policy(policy())
            try:
                assert b"/policy" in asyncio.run(fetch("/policy"))
            finally:
                asyncio.set_event_loop_policy(None)
            netcapture.assert_requested(path="/policy", times=1)
        def test_loop_factory(netcapture):
            loop = uvloop.new_event_loop()
            asyncio.set_event_loop(loop)
            try:
                assert b"/own" in loop.run_until_complete(fetch("/own"))
            finally:
                loop.close()
                asyncio.set_event_loop(None)
            netcapture.assert_requested(path="/own", times=1)
        """
    )
    project.run().assert_outcomes(passed=3)
