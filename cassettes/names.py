"""Tell by the name of a header, parameter or field whether its value is a secret.

1. A name is split into words at punctuation and at camelCase: `X-Acme-Token`, `acmeToken` and
   `acme_token` are the same words.
2. A word such as token or password makes the name secret; `key` does only as the last of several
   words, and not after words that make it a plain identifier (primary_key, Idempotency-Key).
3. A last word that speaks about the secret (token_type, password_reset_url) takes it back, and so
   do words that make a token a cursor (next_page_token).

Proven by tests/cassettes/test_names.py.
"""

from __future__ import annotations

import re
from functools import lru_cache

SECRET_WORDS = frozenset(
    str.split(
        """
    secret secrets token tokens password passwords passwd passphrase passcode pass pwd auth
    authorization bearer credential credentials cred creds session sess sessid sessionid sid
    signature sig hmac apikey jwt otp totp csrf xsrf cookie cookies secretkey accesskey
    privatekey
    """
    )
)
_SECRET_ENDINGS = ("token", "secret", "password", "passwd", "apikey", "sessid", "sessionid")
_PLAIN_KEYS = frozenset(
    str.split(
        """
    primary foreign sort sorting partition public cache idempotency row rows hash range
    surrogate websocket socket object index shard routing dedup deduplication group order
    composite unique natural translation i18n message storage state event map x the a any
    each shortcut hot press arrow category property attribute field column label tag lookup
    search last start end next page
    """
    )
)
_ABOUT = frozenset(
    str.split(
        """
    type types url uri urls endpoint endpoints name names at expires expiry expiration count
    limit status state method methods supported length size format version algorithm alg
    scheme issuer mode enabled required usage duration ttl policy hint label description
    title date time
    """
    )
)
_CURSORS = frozenset(
    str.split(
        """
    page next continuation cursor sync resume prev previous ratelimit rate
    """
    )
)
_ENVIRONMENT_WORDS = frozenset(
    str.split(
        """
    secret secrets token tokens key keys password passwords passwd passphrase pass pwd
    credential credentials cred creds apikey
    """
    )
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

STEMS: tuple[str, ...] = ("secret", "token", "pass", "pwd", "key", "auth", "sess", "sig", "cred")
STEMS += ("cookie", "jwt", "otp", "srf", "bearer", "hmac", "sid")
"""Every secret name holds one of these (lower case): text without any needs no closer look."""


@lru_cache(maxsize=8192)
def is_secret_name(name: str) -> bool:
    """Tell whether a header, query, form, JSON or cookie name says that its value is a secret."""
    words = split_words(name)
    if not words or words[-1] in _ABOUT:
        return False
    if words[-1] == "key" and len(words) > 1:
        return words[-2] not in _PLAIN_KEYS
    if not any(word in SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words):
        return False
    return not _CURSORS.intersection(words)


def is_secret_variable(name: str) -> bool:
    """Tell whether the name of an environment variable says that its value is a secret."""
    return any(
        word in _ENVIRONMENT_WORDS or word.endswith(_SECRET_ENDINGS) for word in split_words(name)
    )


def split_words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
