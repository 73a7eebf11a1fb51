"""`netcapture ca`: install, uninstall, show, export a CA of netcapture's that the machine trusts.

Only `netcapture local` uses it: its targets run outside of any sandbox.
"""

from __future__ import annotations

import os
import platform

import click

from pytest_netcapture import kept_ca
from pytest_netcapture.cli.files import write_output
from pytest_netcapture.errors import UsageError
from pytest_netcapture.sandbox import system_store

_MORE = """\
Not by the system's store go Firefox and Chromium (their own: certutil -A), Java (keytool -import
-cacerts), Node.js (NODE_EXTRA_CA_CERTS={path}) and Python's requests (REQUESTS_CA_BUNDLE)."""


@click.group()
def ca() -> None:
    """Let the machine trust what netcapture local shows to its targets.

    Example: sudo netcapture ca install
    """


@ca.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def install(*, yes: bool) -> int:
    """Make a CA of your own and add it to the system's store.

    Example: sudo netcapture ca install
    """
    store = system_store.find()
    if kept_ca.read():
        raise UsageError(f"there is one already: {kept_ca.path()}", cure=kept_ca.CURE)
    click.echo(f"This adds a CA to {store.directory}, for {kept_ca.LASTS.days} days.")
    click.echo(f"Whoever can read {kept_ca.path()} can then imitate any server to this machine.")
    if not yes:
        click.confirm("Add it?", abort=True)
    from pytest_netcapture.engine.authority import make_kept

    content = make_kept(platform.node() or "this machine", kept_ca.LASTS)
    kept_ca.write(content)
    try:
        system_store.add(store, kept_ca.certificate(content))
    except BaseException:
        kept_ca.remove()
        raise
    click.echo(f"Added {store.file}; netcapture ca uninstall undoes it.")
    click.echo(_MORE.format(path=store.file))
    return 0


@ca.command()
def uninstall() -> int:
    """Take it out of the system's store again, and delete its key.

    Example: sudo netcapture ca uninstall
    """
    store = system_store.find()
    removed = system_store.remove(store)
    if os.path.exists(kept_ca.path()):
        kept_ca.remove()
        removed = True
    click.echo("Removed." if removed else "There was none.")
    return 0


@ca.command()
def show() -> int:
    """Print the certificate, for clients with stores of their own.

    Example: netcapture ca show > netcapture.crt
    """
    click.echo(_certificate().decode(), nl=False)
    return 0


@ca.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["pem", "der", "pkcs12", "jks", "android", "apple"]),
    required=True,
    help="pkcs12: Windows, Firefox; jks: Java; android: as its system store names it; "
    "apple: a profile for iOS and macOS.",
)
@click.option(
    "--output", "-o", type=click.Path(), metavar="FILE", help="Default: the usual name; -: stdout."
)
@click.option(
    "--password",
    default="",
    help="Of pkcs12 (default: none) or jks (default: changeit, which Java expects).",
)
def export(*, form: str, output: str | None, password: str) -> int:
    """Write the certificate as other devices and programs import it; the key stays.

    Example: netcapture ca export --format=apple
    """
    from pytest_netcapture.ca_formats import SEALED
    from pytest_netcapture.ca_formats import export as exported

    if password and form not in SEALED:
        raise UsageError(f"--password: {form} has none", cure=f"for {' and '.join(SEALED)} only")
    name, content = exported(_certificate(), form, password)
    write_output(output or name, content)
    return 0


def _certificate() -> bytes:
    content = kept_ca.read()
    if not content:
        raise UsageError("there is no CA to show", cure="sudo netcapture ca install")
    return kept_ca.certificate(content)
