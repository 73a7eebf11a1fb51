"""A test's or a program's traffic as a file, in the format that its ending says, scrubbed."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Sequence

from pytest_netcapture.cassettes.writing import scrubbed, write_flows
from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import AnyFlow
from pytest_netcapture.interchange import har
from pytest_netcapture.settings import Filters, Settings

ENDINGS = (".cassette", ".har")


def save(path: str, flows: Sequence[AnyFlow], filters: Filters) -> None:
    """Write `flows` to a cassette or a HAR. Raises `CassetteError`, `UsageError`."""
    if path.endswith(".har"):
        save_har(path, flows, filters)
    else:
        write_flows(path, flows, filters=filters)


def clean(name: str, flows: Sequence[AnyFlow], settings: Settings) -> Iterator[AnyFlow]:
    """Yield a test's flows as a cassette of its own would hold them."""
    return scrubbed(name, flows, filters=settings.filters)


def save_har(path: str, flows: Sequence[AnyFlow], filters: Filters) -> None:
    """Write the exchanges among `flows` to a HAR. Raises `UsageError`."""
    seconds = (time.time_ns() - time.monotonic_ns()) / 1e9
    boot = dt.datetime.fromtimestamp(seconds, dt.timezone.utc)
    data, _ = har.write(scrubbed(path, flows, filters=filters), boot)
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", cure="name another") from None
