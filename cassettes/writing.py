"""Flows become a cassette, scrubbed as a recording is, without a test."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pytest_netcapture.cassettes.journal import Journal
from pytest_netcapture.cassettes.saving import Saved, cannot_write, salt_of, save
from pytest_netcapture.cassettes.scrub import Scrubber
from pytest_netcapture.cassettes.secrets import Secrets
from pytest_netcapture.cassettes.source import Recording, Source
from pytest_netcapture.flows import AnyFlow
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
    known = Secrets.from_environ(os.environ) if secrets is None else secrets
    salt = salt_of(target)
    journal = Journal(target, salt, Scrubber(known, filters or Filters(), salt))
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


def _nothing(_: Source) -> list[Recording]:
    return []
