"""How captured packets reach the engine: one module a redirector, one interface."""

if __name__ != "pytest_netcapture.redirect":
    raise ImportError(
        f"import this package as 'pytest_netcapture.redirect', not as {__name__!r}: "
        "two names would give two copies of every class"
    )
