"""Run each test in a network sandbox: capture, assert on, block, record and replay every packet."""

from typing import TYPE_CHECKING, Any

from pytest_netcapture.errors import (
    CassetteError,
    EngineGone,
    EnvironmentProblem,
    Mismatch,
    NetcaptureError,
    UsageError,
)

if TYPE_CHECKING:
    from pytest_netcapture.responses import Response

__all__ = [
    "CassetteError",
    "EngineGone",
    "EnvironmentProblem",
    "Mismatch",
    "NetcaptureError",
    "Response",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    """Import `Response` when it is asked for: most runs of pytest never do."""
    if name == "Response":
        from pytest_netcapture.responses import Response

        return Response
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
