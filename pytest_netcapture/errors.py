"""Errors by blame; anything else that is raised is our bug.

A message says what happened, where, the nearest thing, and what to do; `slug` names the section of
docs/limits.md or docs/errors.md that tells more.
"""

from __future__ import annotations


class NetcaptureError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, message: str, *, cure: str = "", slug: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.slug = slug

    def __str__(self) -> str:
        text = self.message
        if self.cure:
            text += f"\n  cure: {self.cure}"
        if self.slug:
            text += f"\n  docs: {self.slug}"
        return text


class UsageError(NetcaptureError):
    """The test's author asked for something that cannot be."""


class EnvironmentProblem(NetcaptureError):
    """This machine lacks something that capture needs."""


class Mismatch(NetcaptureError):
    """The network differs from the recording, or from what the test claims."""


class AssertionMismatch(Mismatch, AssertionError):
    """A claim that a test made about its traffic, in an assertion or a view, does not hold."""


class CassetteError(NetcaptureError):
    """A cassette cannot be read: foreign, torn, newer, or unreadable."""


class EngineGone(NetcaptureError):
    """The engine process ended while the session still needed it."""
