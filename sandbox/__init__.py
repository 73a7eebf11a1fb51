"""Where captured code runs: namespaces, mounts, trust stores, resolver files."""

if __name__ != "pytest_netcapture.sandbox":
    raise ImportError(
        f"import this package as 'pytest_netcapture.sandbox', not as {__name__!r}: "
        "two names would give two copies of every class"
    )
