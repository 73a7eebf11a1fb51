"""Names that a test has given answers for: what is asked of a name server is answered from here.

Of several that match, the one that was given last for that type counts. A name that has any is
answered for all types: those that were not given have no records (NOERROR, RFC 2308 §2.2).

Proved by tests/plugin/test_mocked_protocols.py.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from pytest_netcapture.errors import UsageError
from pytest_netcapture.flows import DnsAnswer, DnsFlow, Origin
from pytest_netcapture.mock_messages import SetName


class MockedNames:
    """Those of one scope."""

    def __init__(self) -> None:
        self._given: list[SetName] = []

    def add(self, given: SetName) -> None:
        """Take answers. Raises `UsageError` for data that no record of the type can have."""
        import dns.exception
        import dns.rdata
        import dns.rdatatype

        place = f"netcapture.mock_dns({given.name!r}, {given.rtype!r})"
        try:
            kind = dns.rdatatype.from_text(given.rtype)
        except (dns.exception.DNSException, ValueError):
            cure = "write A, AAAA, CNAME, MX, SRV, TXT, ..."
            raise UsageError(f"{place}: {given.rtype!r} is no type of record", cure=cure) from None
        for data in given.data:
            try:
                dns.rdata.from_text("IN", kind, data)
            except (dns.exception.DNSException, ValueError) as error:
                raise UsageError(
                    f"{place}: {data!r} is no {given.rtype} record: {error}",
                    cure='as in a zone file: "10.0.0.1" for A, "10 mail.example.com." for MX',
                ) from None
        self._given.append(given)

    def answer(self, flow: DnsFlow) -> bool:
        """Fill in the answer to a question; tell whether there is one."""
        name = flow.name.lower().rstrip(".")
        found = [given for given in self._given if fnmatchcase(name, given.name)]
        if not found:
            return False
        flow.origin, flow.rcode = Origin.MOCKED, "NOERROR"
        of_type = [given for given in found if given.rtype == flow.type]
        if of_type:
            given = of_type[-1]
            flow.answers = [DnsAnswer(flow.name, flow.type, given.ttl, one) for one in given.data]
        return True
