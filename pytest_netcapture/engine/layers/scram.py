"""A server's side of SCRAM (RFC 5802, RFC 7677), for a client that is to be let in on replay.

1. The server, too, proves that it knows the password, so a client cannot be let in without it. Its
   proof tells which of the passwords that are known here it has.
2. Salt and count are always the same: what they give is computed once a password.
3. With SHA-1, MongoDB takes a hash of user and password for the password.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Iterable
from functools import lru_cache

_SALT, _COUNT = b"netcapture-salt.", 4096
_DIGESTS = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}


class Scram:
    """One login. Raises `ValueError` for what is no client's first message."""

    def __init__(self, mechanism: str, first: bytes) -> None:
        digest = _DIGESTS.get(mechanism)
        bare = first.partition(b",")[2].partition(b",")[2]
        fields = _fields(bare)
        if digest is None or b"n" not in fields or b"r" not in fields:
            raise ValueError(f"no login by {mechanism}")
        name = fields[b"n"].replace(b"=2C", b",").replace(b"=3D", b"=")
        self.user = name.decode("utf-8", "replace")
        self._digest = digest
        made = b64encode(hashlib.sha256(fields[b"r"]).digest())[:24]
        self.challenge = b"r=%b,s=%b,i=%d" % (fields[b"r"] + made, b64encode(_SALT), _COUNT)
        self._talk = bare + b"," + self.challenge

    def proof(self, final: bytes, passwords: Iterable[bytes]) -> bytes | None:
        """Return the server's proof, for a client's that is of one of `passwords`; else None."""
        said, _, proof = final.rpartition(b",p=")
        talk = self._talk + b"," + said
        try:
            wanted = b64decode(proof, validate=True)
        except ValueError:
            return None
        for password in passwords:
            salted = _salted(self._digest, self._password(password))
            key = hmac.digest(salted, b"Client Key", self._digest)
            stored = hashlib.new(self._digest, key).digest()
            signed = hmac.digest(stored, talk, self._digest)
            if bytes(a ^ b for a, b in zip(key, signed, strict=True)) == wanted:
                mine = hmac.digest(salted, b"Server Key", self._digest)
                return b"v=" + b64encode(hmac.digest(mine, talk, self._digest))
        return None

    def _password(self, password: bytes) -> bytes:
        if self._digest == "sha1":
            whole = b"%b:mongo:%b" % (self.user.encode(), password)
            return hashlib.md5(whole, usedforsecurity=False).hexdigest().encode()
        return unicodedata.normalize("NFKC", password.decode("utf-8", "replace")).encode()


@lru_cache(256)
def _salted(digest: str, password: bytes) -> bytes:
    return hashlib.pbkdf2_hmac(digest, password, _SALT, _COUNT)


def _fields(data: bytes) -> dict[bytes, bytes]:
    return {part[:1]: part[2:] for part in data.split(b",") if part[1:2] == b"="}
