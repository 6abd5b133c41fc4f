"""Who asks, what they may do, and how they are told that they may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["read", "whatif", "trade", "admin"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

# A browser that is to ask for a key (as the password) needs this challenge in place of Bearer's.
BASIC = 'Basic realm="gpu-margin", charset="UTF-8"'
_BEARER = 'Bearer realm="gpu-margin"'


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone who was admitted.

    `name` is the client whose requests are numbered: an API key's name, or `jwt:TENANT:SUBJECT`.
    `tenant` None sees all accounts. `rate` is requests per second (None: no limit) and `burst` how
    many may come at once. `key` is the id of the API key, or of the key that signed the token.
    """

    name: str
    scopes: frozenset[Scope]
    tenant: str | None = None
    rate: float | None = None
    burst: float | None = None
    key: str = ""


LOCAL = Principal("local", SCOPES)


class Refused(Exception):
    """Not admitted (401), not allowed (403), or too many new tokens at once (429).

    `reason` is for whoever asked and says nothing that helps to guess; the reasons are few and
    fixed, so that they can be counted. `challenge` is the header WWW-Authenticate, `retry_after`
    the seconds to wait, for 429 only.
    """

    def __init__(
        self, status: int, reason: str, challenge: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.challenge, self.retry_after = challenge, retry_after


def no_credential(reason: str) -> Refused:
    """401 to someone who sent nothing that could be checked."""
    return Refused(401, reason, _BEARER)


def bad_credential(reason: str) -> Refused:
    """401 to someone whose key or token does not do."""
    return Refused(401, reason, f'{_BEARER}, error="invalid_token", error_description="{reason}"')


def no_scope(scope: str) -> Refused:
    """403 to someone who is known, but may not do this."""
    challenge = f'{_BEARER}, error="insufficient_scope", scope="{scope}"'
    return Refused(403, f"this needs the scope {scope}", challenge)
