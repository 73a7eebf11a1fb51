"""What hooks and vcrpy's two callables are called, for the engine and the test process."""

from __future__ import annotations

FLOW, RECORD, REPLAY, MATCH = "flow", "before_record", "before_replay", "match"
REQUEST, RESPONSE = "before_record_request", "before_record_response"
ASKED = frozenset({REQUEST, REPLAY, MATCH})
"""Those that are asked while a client waits."""
REVIEWS = frozenset({RECORD, REQUEST, RESPONSE})
"""Those for which recordings wait until the test has ended."""
