"""A body that may be looked at while it grows: one direction of a conversation that is not decoded.

1. `body` is always right: a flow that refers to it can be sent to the test process at any time.
2. Past the window it is a file of `directory`, whose owner removes it with the directory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import cast

from pytest_netcapture.flows import Body


class GrowingBody:
    """Bytes in the order in which they came."""

    __slots__ = ("_data", "_directory", "_file", "_window", "body")

    def __init__(self, directory: Callable[[], str], window: int) -> None:
        self._directory = directory
        self._window = window
        self._data = bytearray()
        self._file = -1
        # A bytearray is encoded as bytes are, and appending to it copies nothing.
        self.body = Body(data=cast("bytes", self._data))

    def write(self, data: bytes) -> None:
        self.body.size += len(data)
        if self._file >= 0:
            self._write_file(data)
            return
        self._data += data
        if len(self._data) > self._window:
            self._file, self.body.path = tempfile.mkstemp(prefix="raw-", dir=self._directory())
            self._write_file(self._data)
            self.body.data = b""
            self._data.clear()

    def finish(self) -> None:
        """Take no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        elif self.body.data is self._data:
            self.body.data = bytes(self._data)

    def __del__(self) -> None:
        """Close the file of a conversation that nobody finished."""
        if self._file >= 0:
            os.close(self._file)

    def _write_file(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        view.release()
