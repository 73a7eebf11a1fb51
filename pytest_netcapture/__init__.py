"""Run each test in a network sandbox: capture, assert on, block, record and replay every packet."""

from pytest_netcapture.errors import (
    CassetteError,
    EngineGone,
    EnvironmentProblem,
    Mismatch,
    NetcaptureError,
    UsageError,
)

__all__ = [
    "CassetteError",
    "EngineGone",
    "EnvironmentProblem",
    "Mismatch",
    "NetcaptureError",
    "UsageError",
]
