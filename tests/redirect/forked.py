"""A function that runs in a forked child, and what it returned."""

from __future__ import annotations

import os
import pickle
import select
import signal
import traceback

import pytest

LIMIT = 20


class Forked:
    """`result()` waits for what the function of the child `pid` returned; what it raised is raised."""

    pid: int

    def __init__(self, reader):
        self._reader = reader

    def result(self):
        poll = select.poll()
        poll.register(self._reader, select.POLLIN | select.POLLHUP)
        data = b""
        try:
            while poll.poll(LIMIT * 1000):
                piece = os.read(self._reader, 1 << 16)
                if not piece:
                    break
                data += piece
            else:
                os.kill(self.pid, signal.SIGKILL)
        finally:
            os.close(self._reader)
            os.waitpid(self.pid, 0)
        assert data, "the program said nothing in time"
        kind, value = pickle.loads(data)
        if kind == "skip":
            pytest.skip(value)
        assert kind == "ok", value
        return value


def tell(writer, prepare, function):
    """Be the child: `prepare`, run `function`, tell what became of it, and end."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT + 5)
    try:
        prepare()
        told = ("ok", function())
    except pytest.skip.Exception as skip:
        told = ("skip", str(skip))
    except BaseException:
        told = ("fail", traceback.format_exc())
    os.write(writer, pickle.dumps(told))
    os._exit(0)
