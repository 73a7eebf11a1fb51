"""Views: live sequences of a test's flows, narrowed by kind and by criteria.

1. A view holds no flows: each look asks its source again, so it always tells what is there now.
2. `.one`, `.first` and `.last` give a flow or say what there was instead.
3. A view equals any sequence with equal flows in the same order, hence `view == []`.

Proved by tests/test_capture.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar, overload

from pytest_netcapture.errors import AssertionMismatch, NetcaptureError
from pytest_netcapture.flows import AnyFlow, DnsFlow, Flow, HttpFlow
from pytest_netcapture.matching import Criteria

if TYPE_CHECKING:
    from typing_extensions import Self

__tracebackhide__ = methodcaller("errisinstance", NetcaptureError)

F = TypeVar("F", bound=Flow)


class View(Sequence[F], Generic[F]):
    """Flows of one kind that match the criteria given so far."""

    def __init__(
        self,
        source: Callable[[], list[AnyFlow]],
        *,
        name: str = "flows",
        kind: type[Any] = Flow,
        criteria: tuple[Criteria, ...] = (),
        keep: Callable[[Flow], bool] | None = None,
    ) -> None:
        """Take `source`, all flows of the test; `keep` narrows a kind further."""
        self._source = source
        self._name = name
        self._kind = kind
        self._criteria = criteria
        self._keep = keep

    def filter(self, method: Any = None, url: Any = None, /, **criteria: Any) -> Self:
        """Return a live view of the flows that match `criteria` too."""
        added = self._build("filter", method, url, criteria)
        return type(self)(
            self._source,
            name=self._name,
            kind=self._kind,
            criteria=(*self._criteria, added),
            keep=self._keep,
        )

    def one(self, method: Any = None, url: Any = None, /, **criteria: Any) -> F:
        """Return the only flow that matches. Raises `AssertionMismatch` when there is not one."""
        wanted = self._build("one", method, url, criteria)
        every = self._source()
        found = [flow for flow in self._select(every) if wanted.matches(flow)]
        if len(found) == 1:
            return found[0]
        call = f"{self._title()}.one({_argument(wanted)})"
        raise self._mismatch(f"{call}: expected one flow, found {len(found)}", every, wanted)

    @property
    def first(self) -> F:
        return self._at(0, "first")

    @property
    def last(self) -> F:
        return self._at(-1, "last")

    def _at(self, index: int, name: str) -> F:
        every = self._source()
        flows = self._select(every)
        if flows:
            return flows[index]
        raise self._mismatch(f"{self._title()}.{name}: there is no such flow", every)

    @overload
    def __getitem__(self, index: int) -> F: ...
    @overload
    def __getitem__(self, index: slice) -> list[F]: ...
    def __getitem__(self, index: int | slice) -> F | list[F]:
        flows = self._flows()
        try:
            return flows[index]
        except IndexError:
            raise IndexError(f"{self._title()}[{index}]: there are {len(flows)}") from None

    def __len__(self) -> int:
        return len(self._flows())

    def __iter__(self) -> Iterator[F]:
        return iter(self._flows())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (View, list, tuple)):
            return self._flows() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        from pytest_netcapture.report.exchange import flow_lines
        from pytest_netcapture.report.text import count

        flows = self._flows()
        head = f"<{self._title()}: {count(len(flows), 'flow')}"
        return "\n".join([head, *flow_lines(flows)]) + ">"

    def _flows(self) -> list[F]:
        return self._select(self._source())

    def _select(self, every: Sequence[AnyFlow]) -> list[F]:
        return [flow for flow in every if self._is_kind(flow) and self._holds(flow)]

    def _is_kind(self, flow: Flow) -> TypeGuard[F]:
        return isinstance(flow, self._kind) and (self._keep is None or self._keep(flow))

    def _holds(self, flow: Flow) -> bool:
        return all(criteria.matches(flow) for criteria in self._criteria)

    def _build(self, call: str, method: Any, url: Any, criteria: dict[str, Any]) -> Criteria:
        place = f"netcapture.{self._name}.{call}"
        return Criteria.build(method, url, criteria, place=place, kind=self._kind)

    def _title(self) -> str:
        filters = "".join(f".filter({_argument(criteria)})" for criteria in self._criteria)
        return f"netcapture.{self._name}{filters}"

    def _mismatch(
        self, claim: str, every: Sequence[AnyFlow], *added: Criteria
    ) -> AssertionMismatch:
        from pytest_netcapture.report.mismatch import mismatch_text

        checks = tuple(check for one in (*self._criteria, *added) for check in one.checks)
        wanted = Criteria(checks, claim) if checks or added else None
        candidates: list[Any] = [flow for flow in every if self._is_kind(flow)]
        return AssertionMismatch(mismatch_text(claim, wanted, candidates, everything=every))


class HttpView(View[HttpFlow]):
    """Exchanges."""

    @property
    def hosts(self) -> set[str]:
        """Return the hosts that were asked."""
        return {flow.request.host for flow in self}


class DnsView(View[DnsFlow]):
    """Questions and their answers."""

    @property
    def names(self) -> set[str]:
        """Return the names that were asked for, in lower case, without a final dot."""
        return {flow.name.lower().rstrip(".") for flow in self}


def _argument(criteria: Criteria) -> str:
    return criteria.describe() if criteria.checks else ""
