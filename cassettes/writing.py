"""Flows become a cassette, scrubbed as a recording is, without a test."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import msgspec

from pytest_netcapture.cassettes.journal import Journal
from pytest_netcapture.cassettes.saving import Saved, cannot_write, salt_of, save, write
from pytest_netcapture.cassettes.scrub import WHOLE, Scrubber
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.source import Recording, Source
from pytest_netcapture.flows import AnyFlow, Body, HttpFlow
from pytest_netcapture.settings import Filters


def write_flows(
    target: str,
    flows: Iterable[AnyFlow],
    *,
    secrets: Secrets | None = None,
    filters: Filters | None = None,
) -> Saved:
    """Write a cassette of `flows`; a file that was there is replaced. Raises `CassetteError`.

    `secrets` are by default those of this process's environment.
    """
    target = os.path.abspath(target)
    salt = salt_of(target)
    journal = Journal(target, salt, _scrubber(target, secrets, filters))
    try:
        journal.append(flows)
        if not journal.path:
            return Saved(target)
        source = journal.source()
        try:
            return save(target, source, _nothing, salt, start_over=True)
        finally:
            source.close()
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        journal.remove()


def scrub_file(source: Source, scrubber: Scrubber) -> Saved:
    """Write a cassette again, scrubbed; the day of its recording stays. Raises `CassetteError`."""
    target = os.path.realpath(source.path)
    journal = Journal(target, source.header.salt, scrubber)
    try:
        for recording in source.recordings:
            journal.append([recording.flow()])
        clean = journal.source()
        try:
            return write(target, clean.recordings, source.header.salt, source.header.recorded)
        finally:
            clean.close()
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        journal.remove()


def scrubbed(
    name: str,
    flows: Iterable[AnyFlow],
    *,
    secrets: Secrets | None = None,
    filters: Filters | None = None,
) -> Iterator[AnyFlow]:
    """Yield `flows` as a cassette of that name would hold them, whole."""
    scrubber = _scrubber(name, secrets, filters)
    for flow in flows:
        clean = scrubber.flow(flow)
        if isinstance(clean, HttpFlow):
            clean = _all_scrubbed(clean, scrubber)
        yield clean


def _all_scrubbed(flow: HttpFlow, scrubber: Scrubber) -> HttpFlow:
    """Return `flow` with its large bodies scrubbed, too."""
    request, response = flow.request, flow.response
    if request.body.size > WHOLE:
        request = msgspec.structs.replace(request, body=_large(request.body, scrubber))
    if response and response.body.size > WHOLE:
        response = msgspec.structs.replace(response, body=_large(response.body, scrubber))
    return msgspec.structs.replace(flow, request=request, response=response)


def _large(body: Body, scrubber: Scrubber) -> Body:
    data = b"".join(scrubber.stream(body.pieces()))
    return Body(len(data), data, coding=body.coding)


def _scrubber(name: str, secrets: Secrets | None, filters: Filters | None) -> Scrubber:
    known = Secrets.from_environ(os.environ) if secrets is None else secrets
    return Scrubber(known, filters or Filters(), salt_of(name))


def _nothing(_: Source) -> list[Recording]:
    return []
