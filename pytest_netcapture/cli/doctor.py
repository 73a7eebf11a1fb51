"""`netcapture doctor`: what works on this machine, what does not, and what mends it.

1. Facts first, then what trying showed, then what follows: which redirector `auto` takes.
2. Status 0 if one works, also when it is not the first choice; 3 if none does.
3. `--json` prints the same as one object.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, NamedTuple

import click

from pytest_netcapture.redirect.base import Support
from pytest_netcapture.sandbox.facts import Facts
from pytest_netcapture.sandbox.hindrances import Hindrance
from pytest_netcapture.sandbox.probe import Finding

_PAGE = "docs/redirectors.md"
_SAME = "for the same reason"
_WSL = "WSL's own kernel may lack it: `wsl --update`; without it `auto` takes another"


class Diagnosis(NamedTuple):
    """All that was found."""

    facts: Facts
    hindrances: list[Hindrance]
    findings: list[Finding]
    redirectors: list[Support]
    protocols: tuple[Finding, ...] = ()
    """What takes a package that is not always installed."""
    local: Support | None = None
    """What captures programs that run already; `auto` never takes it."""

    @property
    def redirector(self) -> str:
        """Return the one that `auto` takes, "" if none works."""
        return next((support.name for support in self.redirectors if support.available), "")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for machines.")
def doctor(*, as_json: bool) -> int:
    """Say what works on this machine, and the exact command that mends what does not.

    Example: netcapture doctor
    """
    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(as_object(diagnosis), indent=2))
    else:
        _print(diagnosis)
    return 0 if diagnosis.redirector else 3


def diagnose() -> Diagnosis:
    """Read the facts and try everything. Takes a second."""
    from pytest_netcapture.redirect import ebpf_probing, probing, seccomp_probing, tun_probing
    from pytest_netcapture.sandbox import facts, hindrances, namespaces, probe

    found = facts.gather()
    findings = probe.probe_all()
    missing = next((f for f in findings if not f.ok and f.name in probe.NEEDED), None)
    privileged = not namespaces.needs_user_namespace()
    return Diagnosis(
        found,
        hindrances.hindrances(found, privileged=privileged),
        findings,
        [
            _tproxy(_in_sandbox(probing.probe(), missing), found),
            _in_sandbox(tun_probing.probe(), missing),
            seccomp_probing.probe(),
        ],
        (http3(),),
        ebpf_probing.probe(),
    )


def http3() -> Finding:
    """Tell whether HTTP/3 is decoded, for which the engine needs aioquic."""
    import importlib.util

    if importlib.util.find_spec("aioquic") is not None:
        return Finding("HTTP/3", ok=True, reason="")
    reason = "aioquic is not installed: QUIC is relayed as it is, and not replayed"
    return Finding("HTTP/3", ok=False, reason=reason, cure="pip install 'pytest-netcapture[http3]'")


def _in_sandbox(support: Support, missing: Finding | None) -> Support:
    """Return what is true of a redirector that needs the sandbox as well."""
    if missing is None:
        return support
    reason = f"no {missing.name}: {missing.reason}"
    return Support(support.name, available=False, reason=reason, cure=missing.cure)


def _tproxy(support: Support, found: Facts) -> Support:
    if not support.available and found.wsl == 2:
        return Support(
            support.name, available=False, reason=support.reason, cure=f"{support.cure}. {_WSL}"
        )
    return support


def as_object(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "works": bool(diagnosis.redirector),
        "redirector": diagnosis.redirector or None,
        "machine": diagnosis.facts._asdict(),
        "hindrances": [{"cause": h.cause, "cure": h.cure} for h in diagnosis.hindrances],
        "sandbox": [finding._asdict() for finding in diagnosis.findings],
        "redirectors": [asdict(support) for support in diagnosis.redirectors],
        "local": asdict(diagnosis.local) if diagnosis.local else None,
        "protocols": [finding._asdict() for finding in diagnosis.protocols],
    }


def _print(diagnosis: Diagnosis) -> None:
    from pytest_netcapture.sandbox.hindrances import description

    click.echo("machine")
    click.echo(f"       {description(diagnosis.facts)}")
    for hindrance in diagnosis.hindrances:
        _line(False, hindrance.cause, "", hindrance.cure)
    click.echo("sandbox")
    said: set[str] = set()
    for finding in diagnosis.findings:
        again = not finding.ok and finding.reason in said
        said.add(finding.reason)
        cure = "" if finding.ok or again else finding.cure
        _line(finding.ok, finding.name, _SAME if again else finding.reason, cure)
    click.echo("redirectors")
    for support in diagnosis.redirectors:
        _support(support, said)
    if diagnosis.local is not None:
        click.echo("running programs (netcapture local)")
        _support(diagnosis.local, said)
    click.echo("protocols")
    for finding in diagnosis.protocols:
        _line(finding.ok, finding.name, finding.reason, finding.cure)
    click.echo(f"\n{conclusion(diagnosis)}")


def _support(support: Support, said: set[str]) -> None:
    """Print what is true of a redirector; no cure that was told before."""
    cure = "" if any(reason and reason in support.reason for reason in said) else support.cure
    _line(support.available, support.name, support.reason, cure)
    for note in support.notes:
        click.echo(f"       note: {note}")


def conclusion(diagnosis: Diagnosis) -> str:
    """Say in a line or two what to expect of `pytest --netcapture`."""
    first = diagnosis.redirectors[0].name
    if diagnosis.redirector == first:
        return "pytest --netcapture works here"
    if diagnosis.redirector:
        return (
            f"pytest --netcapture works here, by {diagnosis.redirector} instead of {first}: see "
            f"{_PAGE} for what is different"
        )
    return "pytest --netcapture does not work here yet"


def _line(ok: bool, name: str, reason: str, cure: str) -> None:
    mark = click.style("ok", fg="green") if ok else click.style("no", fg="red")
    first, *more = reason.removeprefix(f"{name}: ").splitlines() or [""]
    click.echo(f"  {mark}   {name}" + (f": {first}" if first else ""))
    for line in more:
        click.echo(f"         {line}")
    if cure:
        click.echo(f"       cure: {cure}")
