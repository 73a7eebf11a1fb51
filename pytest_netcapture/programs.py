"""Programs of a test in sandboxes of their own: `netcapture.run` and `netcapture.popen`.

1. A child is born in the namespace of the thread that forks it (namespaces(7)): the thread steps
   into the program's for just that moment.
2. A program shares its test's options and cassette; its flows are its own, its problems the test's.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

from pytest_netcapture.flows import Flow
from pytest_netcapture.views import View

if TYPE_CHECKING:
    from pytest_netcapture.capture import FlowSource


class Program(subprocess.Popen[Any]):
    """A running program; `flows` is what it and its children have sent so far."""

    flows: View[Flow]


class CompletedProgram(subprocess.CompletedProcess[Any]):
    """A program that has ended, and its `flows`."""

    flows: View[Flow]


def popen(source: FlowSource, args: Any, **kwargs: Any) -> Program:
    """Start `args` as `subprocess.Popen` does."""
    scope = source.program(str(args if isinstance(args, str) else args[0]))
    scope.enter()
    try:
        program = Program(args, **kwargs)
    finally:
        source.enter()
    program.flows = View(scope.flows)
    return program


def run(
    source: FlowSource,
    args: Any,
    *,
    input: Any = None,  # noqa: A002 (subprocess.run's own name)
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **kwargs: Any,
) -> CompletedProgram:
    """Run `args` as `subprocess.run` does. Raises what it raises."""
    if input is not None:
        kwargs["stdin"] = subprocess.PIPE
    if capture_output:
        kwargs["stdout"] = kwargs["stderr"] = subprocess.PIPE
    with popen(source, args, **kwargs) as program:
        try:
            stdout, stderr = program.communicate(input, timeout=timeout)
        except BaseException:
            program.kill()
            raise
        status = program.returncode
    completed = CompletedProgram(program.args, status, stdout, stderr)
    completed.flows = program.flows
    if check:
        completed.check_returncode()
    return completed
