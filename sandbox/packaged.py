"""CA bundles that packages bring along: found by their packages' own file lists, or known names.

1. A Python package's RECORD lists its files, so nothing is searched for on disk: some milliseconds
   for a hundred packages, spent while the engine starts. Proof: test_records_are_read_quickly.
2. A file counts when its name says "CA bundle" and it holds many certificates: a single one is test
   data or a client's own. Proof: test_a_few_certificates_are_no_bundle.
3. Other languages' packages are looked for in their usual places, by known names.
4. What is installed later, inside a test, is not found.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from pytest_netcapture.sandbox.original import original, read_file, real_path

FEWEST = 20
"""Certificates of the smallest bundle of roots: Mozilla's has some 140, gRPC's as many."""

_ENDS = (b".pem,", b".crt,", b".txt,")
_WORDS = (
    b"cacert",
    b"roots",
    b"ca-bundle",
    b"ca_bundle",
    b"ca-certificates",
    b"ca_certs",
    b"cert.",
)
_BEGIN = b"BEGIN CERTIFICATE"

GEM_BUNDLES = {
    "httpclient-": "lib/httpclient/cacert.pem",
    "excon-": "data/cacert.pem",
    "stripe-": "lib/data/ca-certificates.crt",
    "aws-sdk-core-": "ca-bundle.crt",
    "certifi-": "lib/certifi/cacert.pem",
    "typhoeus-": "data/cacert.pem",
    "rest-client-": "lib/restclient/cacert.pem",
}
"""A gem's name up to its version, and its bundle."""

GEM_HOLDERS = ("/var/lib/gems", "/usr/lib/ruby/gems", "/usr/local/lib/ruby/gems")
"""They have a directory for each version of Ruby."""
USER_GEM_HOLDERS = (".gem/ruby", ".local/share/gem/ruby")
GEM_DIRECTORIES = ("/usr/local/bundle", "/usr/share/gems", "/usr/share/rubygems-integration/all")

PERL_HOLDERS = ("/usr/local/share/perl", "/usr/local/lib/x86_64-linux-gnu/perl")
"""They have a directory for each version of Perl."""
PERL_DIRECTORIES = ("/usr/share/perl5", "/usr/share/perl5/vendor_perl", "/usr/local/share/perl5")
PERL_BUNDLE = "Mozilla/CA/cacert.pem"

PROJECT_BUNDLES = (
    "deps/castore/priv/cacerts.pem",  # Elixir
    "vendor/composer/ca-bundle/res/cacert.pem",  # PHP
    "vendor/stripe/stripe-php/data/ca-certificates.crt",
)
"""Relative: below the working directory."""


def packaged_bundles(sys_path: Iterable[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield paths of bundles; those of other languages need not exist."""
    for path in dict.fromkeys(sys_path):
        yield from _in_site_packages(path)
    yield from _gem_bundles(environ)
    yield from _perl_bundles(environ)
    yield from PROJECT_BUNDLES


def other_site_packages(environ: Mapping[str, str]) -> list[str]:
    """Return the site-packages of other Pythons that children may run: active ones, and on PATH."""
    prefixes = [environ.get("VIRTUAL_ENV", ""), environ.get("CONDA_PREFIX", "")]
    for directory in environ.get("PATH", "").split(os.pathsep):
        if directory.endswith("/bin"):
            prefixes += [directory.removesuffix("/bin"), _prefix_of(f"{directory}/python3")]
    found: dict[str, None] = {}
    for prefix in dict.fromkeys(prefixes):
        for name in _names(f"{prefix}/lib") if prefix else ():
            if name.startswith("python3"):
                found[f"{prefix}/lib/{name}/site-packages"] = None
    return list(found)


def _prefix_of(python: str) -> str:
    end = real_path(python)
    directory, _, name = end.rpartition("/")
    return directory.removesuffix("/bin") if name.startswith("python") else ""


def _in_site_packages(directory: str) -> Iterator[str]:
    for name in _names(directory):
        if name.endswith(".dist-info"):
            for entry in _candidates(_content(f"{directory}/{name}/RECORD")):
                path = f"{directory}/{entry}"
                if _content(path).count(_BEGIN) >= FEWEST:
                    yield path


def _candidates(record: bytes) -> Iterator[str]:
    """Yield the files of a RECORD whose name is a bundle's. Not by regex: ten times slower."""
    for end in _ENDS:
        at = record.find(end)
        while at >= 0:
            start = record.rfind(b"\n", 0, at) + 1
            entry = record[start : at + len(end) - 1]
            if any(word in entry.rpartition(b"/")[2].lower() for word in _WORDS):
                yield entry.decode("utf-8", "surrogateescape").lstrip('"')
            at = record.find(end, at + 1)


def _gem_bundles(environ: Mapping[str, str]) -> Iterator[str]:
    for directory in dict.fromkeys(_gem_directories(environ)):
        for name in _names(f"{directory}/gems"):
            for start, bundle in GEM_BUNDLES.items():
                if name.startswith(start):
                    yield f"{directory}/gems/{name}/{bundle}"


def _gem_directories(environ: Mapping[str, str]) -> Iterator[str]:
    yield from _listed(environ, "GEM_HOME")
    yield from _listed(environ, "GEM_PATH")
    yield from GEM_DIRECTORIES
    for holder in (*GEM_HOLDERS, *_of_the_user(environ, USER_GEM_HOLDERS)):
        yield from (f"{holder}/{name}" for name in _names(holder))


def _perl_bundles(environ: Mapping[str, str]) -> Iterator[str]:
    directories = [*_listed(environ, "PERL5LIB"), *PERL_DIRECTORIES]
    directories += _of_the_user(environ, ("perl5/lib/perl5",))
    for holder in PERL_HOLDERS:
        directories += [f"{holder}/{name}" for name in _names(holder)]
    return (f"{directory}/{PERL_BUNDLE}" for directory in directories)


def _listed(environ: Mapping[str, str], variable: str) -> list[str]:
    return [path for path in environ.get(variable, "").split(os.pathsep) if path]


def _of_the_user(environ: Mapping[str, str], names: Iterable[str]) -> list[str]:
    home = environ.get("HOME")
    return [f"{home}/{name}" for name in names] if home else []


def _names(directory: str) -> list[str]:
    try:
        return sorted(original.listdir(directory or "."))
    except OSError:
        return []


def _content(path: str) -> bytes:
    try:
        return read_file(path)
    except (OSError, ValueError):
        return b""
