"""Keep a test's traffic for a look after the run: as a cassette, a HAR, and its packets.

1. A test has a folder, `<keep-dir>/<module>/<test>/`; its files say what is in them by their names:
   traffic.cassette (and .txt), traffic.har, packets.pcapng. No traffic, no folder.
2. Packets must be asked for while the test's books are open: of a test that fails only when they
   are closed there are none.
3. What cannot be written is a warning, never a failure: the test says something else.

Proved by tests/plugin/test_keeping.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence

import pytest

from pytest_netcapture.cassette_names import ENDING, cassette_path
from pytest_netcapture.errors import NetcaptureError
from pytest_netcapture.flows import AnyFlow
from pytest_netcapture.session import TestScope
from pytest_netcapture.settings import Settings

DEFAULT = "netcapture-kept"
PROPERTY = "netcapture_kept"


class Keeping:
    """What is kept of one test. `look` before its books are closed, `settle` after."""

    def __init__(self, item: pytest.Item, settings: Settings) -> None:
        self._item = item
        self._settings = settings
        root = settings.keep_dir or str(item.config.rootpath / DEFAULT)
        self.folder = cassette_path(item, None, root).removesuffix(ENDING)
        self._flows: Sequence[AnyFlow] = ()
        self._written = False

    def look(self, scope: TestScope, *, failed: bool) -> None:
        """Remember what was said; write it if it is known that it will be wanted."""
        self._flows = list(scope.flows())
        if self._flows and (failed or self._settings.keep == "always"):
            self._write(scope)

    def settle(self, _: Sequence[str], *, failed: bool) -> None:
        """Write it if only the end has shown that it is wanted."""
        if failed and self._flows and not self._written:
            self._write(None)

    def _write(self, scope: TestScope | None) -> None:
        from pytest_netcapture.interchange.saving import save

        self._written = True
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.makedirs(self.folder)
            for name in ("traffic.cassette", "traffic.har"):
                save(os.path.join(self.folder, name), self._flows, self._settings.filters)
        except (NetcaptureError, OSError) as error:
            self._item.warn(pytest.PytestWarning(f"netcapture: nothing was kept: {error}"))
            return
        if scope is not None:
            with contextlib.suppress(NetcaptureError):  # not every redirector sees packets
                scope.save_packets(os.path.join(self.folder, "packets.pcapng"))
        self._item.user_properties.append((PROPERTY, self.folder))
        self._item.add_report_section("teardown", "traffic, kept in", self.folder)
