"""Where programs look for CA certificates: the lists, and which of them exist here.

1. Known names are looked at, and what packages list (packaged.py); no tree is searched: some
   milliseconds. Proof: test_looking_for_bundles_is_quick.
2. A bundle is a regular file of PEM certificates. Two names of one file count once, by real path.
3. Roots compiled into a program (webpki-roots, Deno's own) and other formats (Java's key stores,
   browsers') are not files of this kind: see trust.py.
4. p11-kit's directories (GnuTLS and NSS on Fedora, Arch, SUSE) take any file name, so a hashed one
   does, too.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping

from pytest_netcapture.sandbox.original import original, real_path
from pytest_netcapture.sandbox.packaged import other_site_packages, packaged_bundles

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Gentoo, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # CentOS 7 and later, RHEL
    "/etc/pki/tls/cert.pem",  # OpenSSL's default file on Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/var/lib/ca-certificates/ca-bundle.pem",  # SUSE, where the above leads
    "/etc/pki/tls/cacert.pem",  # OpenELEC
    "/etc/ssl/cert.pem",  # Alpine, BSDs, macOS layout
    "/etc/ssl/certs/ca-bundle.crt",  # NixOS, Fedora's compatibility link
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",  # Arch
    "/usr/local/share/certs/ca-root-nss.crt",  # FreeBSD
    "/usr/local/etc/openssl/cert.pem",
    "/usr/local/ssl/cert.pem",  # OpenSSL built from source
    "/usr/lib/ssl/cert.pem",  # Debian's OPENSSLDIR
    "/usr/lib/ssl/certs/ca-certificates.crt",
    "/usr/share/ssl/certs/ca-bundle.crt",
    "/etc/certs/ca-certificates.crt",  # Solaris layout
    "/opt/homebrew/etc/ca-certificates/cert.pem",
    "/home/linuxbrew/.linuxbrew/etc/ca-certificates/cert.pem",
    "/usr/lib/google-cloud-sdk/lib/third_party/certifi/cacert.pem",
    "/usr/local/aws-cli/v2/current/dist/awscli/botocore/cacert.pem",
    "/usr/local/aws-cli/v2/current/dist/botocore/cacert.pem",
)

PYTHON_BUNDLES = (
    "certifi/cacert.pem",
    "pip/_vendor/certifi/cacert.pem",
    "botocore/cacert.pem",
    "grpc/_cython/_credentials/roots.pem",
    "httplib2/cacerts.txt",
    "requests/cacert.pem",  # before 2.16
    "pip/_vendor/requests/cacert.pem",
    "botocore/vendored/requests/cacert.pem",
    "awscli/botocore/cacert.pem",
    "pipenv/patched/pip/_vendor/certifi/cacert.pem",
    "pipenv/vendor/certifi/cacert.pem",
    "stripe/data/ca-certificates.crt",
    "websocket/cacert.pem",
    "tornado/ca-certificates.crt",
)

PREFIX_BUNDLES = ("ssl/cert.pem", "ssl/cacert.pem", "etc/ssl/cert.pem")
"""Below a prefix with an OpenSSL of its own: conda, python-build-standalone."""

FILE_VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL, Go, rustls-native-certs, httpx, uv
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",  # curl, requests
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "CARGO_HTTP_CAINFO",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "DENO_CERT",
)

SYSTEM_DIRECTORIES = (
    "/etc/ssl/certs",
    "/usr/lib/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted/pem/directory-hash",  # Fedora 43 and later
    "/var/lib/ca-certificates/openssl",  # SUSE
    "/etc/openssl/certs",
    "/usr/local/ssl/certs",
    "/etc/pki/ca-trust/source/anchors",  # p11-kit: Fedora, RHEL
    "/etc/ca-certificates/trust-source/anchors",  # p11-kit: Arch
    "/etc/pki/trust/anchors",  # p11-kit: SUSE
)

DIRECTORY_VARIABLES = ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAPATH")


def find_bundles(sys_path: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """Return the real path of every CA bundle that exists, the environment's own first."""
    directories = dict.fromkeys([*sys_path, *other_site_packages(environ)])
    return _existing(
        [
            *_named(environ, FILE_VARIABLES),
            *SYSTEM_BUNDLES,
            *_below({sys.prefix, sys.base_prefix, environ.get("CONDA_PREFIX", "")}, PREFIX_BUNDLES),
            *_below(directories, PYTHON_BUNDLES),
            *packaged_bundles(directories, environ),
        ],
        stat.S_ISREG,
    )


def find_hashed_directories(environ: Mapping[str, str]) -> list[str]:
    """Return the real path of every directory that OpenSSL looks into by subject hash."""
    return _existing([*_named(environ, DIRECTORY_VARIABLES), *SYSTEM_DIRECTORIES], stat.S_ISDIR)


def original_roots(environ: Mapping[str, str]) -> list[str]:
    """Return the files whose roots programs trust here: read them before the mounts hide them.

    What the environment names, the first bundle of the system, and certifi's where there is none.
    """
    named = _existing([*_named(environ, FILE_VARIABLES)], stat.S_ISREG)
    system = _existing(SYSTEM_BUNDLES, stat.S_ISREG)[:1]
    if not system:
        system = _existing(_below(dict.fromkeys(sys.path), PYTHON_BUNDLES), stat.S_ISREG)[:1]
    own = set(_existing(SYSTEM_DIRECTORIES, stat.S_ISDIR))  # the bundle has the same roots
    directories = _existing(_named(environ, ("SSL_CERT_DIR",)), stat.S_ISDIR)
    in_directories = _certificates_in(path for path in directories if path not in own)
    return list(dict.fromkeys([*named, *system, *in_directories]))


def system_bundle() -> str | None:
    """Return the system's own bundle, under the name that programs know it by."""
    return next((path for path in SYSTEM_BUNDLES if _existing([path], stat.S_ISREG)), None)


def _named(environ: Mapping[str, str], variables: Iterable[str]) -> list[str]:
    """Return the paths in these variables; a directory variable may hold several."""
    values = [environ.get(name, "") for name in variables]
    return [path for value in values for path in (value, *value.split(os.pathsep)) if path]


def _below(prefixes: Iterable[str], names: Iterable[str]) -> list[str]:
    names = tuple(names)
    return [f"{prefix}/{name}" for prefix in prefixes if prefix for name in names]


def _existing(paths: Iterable[str], is_kind: Callable[[int], bool]) -> list[str]:
    """Return the real paths of those that exist and are of this kind, once each."""
    found: dict[str, None] = {}
    for path in paths:
        try:
            if is_kind(original.stat(path).st_mode):
                found[real_path(path)] = None
        except (OSError, ValueError):
            continue
    return list(found)


def _certificates_in(directories: Iterable[str]) -> list[str]:
    paths = []
    for directory in directories:
        paths += [f"{directory}/{name}" for name in sorted(original.listdir(directory))]
    return _existing(paths, stat.S_ISREG)
