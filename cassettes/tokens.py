"""Shapes of secrets that are known wherever they stand, whatever their field is called.

Each shape has a mark, a few literal bytes that every instance holds: searching for marks is much
cheaper than the expressions, which run only when a mark is there.
"""

from __future__ import annotations

import re

_PEM = (
    rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[0-9A-Za-z+/=\s\\:,\-]{16,16384}?"
    rb"-----END [A-Z ]{0,20}PRIVATE KEY-----"
)
_SHAPES: tuple[tuple[tuple[bytes, ...], bytes], ...] = (
    ((b"AKIA", b"ASIA"), rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ((b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"), rb"\bgh[pousr]_[0-9A-Za-z]{20,255}"),
    ((b"_pat_",), rb"\bgithub_pat_[0-9A-Za-z_]{20,255}"),
    ((b"glpat-",), rb"\bglpat-[0-9A-Za-z_\-]{16,64}"),
    ((b"k_live_", b"k_test_"), rb"\b[sr]k_(?:live|test)_[0-9A-Za-z]{10,255}"),
    ((b"whsec_",), rb"\bwhsec_[0-9A-Za-z+/=]{16,255}"),
    ((b"sk-",), rb"\bsk-[0-9A-Za-z_\-]{16,255}"),
    ((b"xox",), rb"\bxox[abeoprs]-[0-9A-Za-z\-]{10,255}"),
    ((b"xapp-",), rb"\bxapp-[0-9A-Za-z\-]{10,255}"),
    ((b"AIza",), rb"\bAIza[0-9A-Za-z_\-]{35}"),
    ((b"ya29.",), rb"\bya29\.[0-9A-Za-z_\-]{20,512}"),
    ((b"npm_",), rb"\bnpm_[0-9A-Za-z]{36}"),
    ((b"pypi-",), rb"\bpypi-[0-9A-Za-z_\-]{50,512}"),
    ((b"hf_",), rb"\bhf_[0-9A-Za-z]{30,64}"),
    ((b"SG.",), rb"\bSG\.[0-9A-Za-z_\-]{16,64}\.[0-9A-Za-z_\-]{16,64}"),
    ((b"dop_v1_",), rb"\bdop_v1_[0-9a-f]{64}"),
    ((b"shpat_",), rb"\bshpat_[0-9a-fA-F]{32}"),
    ((b"_pat_",), rb"\bdckr_pat_[0-9A-Za-z_\-]{20,64}"),
    ((b"eyJ",), rb"\beyJ[0-9A-Za-z_\-]{8,8192}\.eyJ[0-9A-Za-z_\-]{4,8192}\.[0-9A-Za-z_\-]{0,2048}"),
    (
        (b"PRIVATE KEY",),
        _PEM,
    ),
)
_USERINFO = re.compile(rb"(?<=://)[^\s/?#@\"'<>:]{0,256}:([^\s/?#@\"'<>]{1,256})(?=@)")

MARKS = tuple({mark: None for marks, _ in _SHAPES for mark in marks})
LONGEST = 24_576
"""No shape is longer than this: how much of a stream must be seen at once."""

_COMPILED = tuple((marks, re.compile(shape)) for marks, shape in _SHAPES)


def maybe_tokens(data: bytes) -> bool:
    """Tell quickly whether a closer look at `data` can find anything."""
    return any(map(data.__contains__, MARKS)) or (b"@" in data and b"://" in data)


def find_tokens(data: bytes) -> list[tuple[int, int]]:
    """Return the spans of known token shapes and of passwords in URLs in `data`, in order."""
    contains = data.__contains__
    spans = []
    for marks, shape in _COMPILED:
        if any(map(contains, marks)):
            spans += [match.span() for match in shape.finditer(data)]
    if b"@" in data and b"://" in data:
        spans += [match.span(1) for match in _USERINFO.finditer(data)]
    spans.sort()
    return spans
