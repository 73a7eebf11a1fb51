"""How flows are stored, found again and scrubbed."""

if __name__ != "pytest_netcapture.cassettes":
    raise ImportError(
        f"import this package as 'pytest_netcapture.cassettes', not as {__name__!r}: "
        "two names would give two copies of every class"
    )
