"""Who asks, may they, and how often: API keys and tokens, scopes, tenants, rates.

For one thread only, that of the loop.
"""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

from gpu_margin.failures import ConfigError
from gpu_margin.server.access_settings import AccessSettings
from gpu_margin.server.keys import PREFIX, UNKNOWN, ApiKey, KeyRing, parse_keys
from gpu_margin.server.principal import (
    BASIC,
    LOCAL,
    SCOPES,
    Principal,
    Refused,
    Scope,
    bad_credential,
    no_credential,
    no_scope,
)
from gpu_margin.server.rates import Rates
from gpu_margin.server.tenants import Tenants
from gpu_margin.server.watched import Watched

if TYPE_CHECKING:
    from gpu_margin.server.tokens import Tokens

__all__ = ["BASIC", "LOCAL", "SCOPES", "Access", "Principal", "Refused", "Scope"]

NOTHING = "no API key or token was sent"
TWO = "more than one API key or token was sent"
UNREADABLE = "the header Authorization must be Bearer or Basic"
_LONGEST = 8192
# Files are looked at again after so many seconds.
_LOOK_EVERY = 1.0


class Access:
    """Admits clients as `settings` say; without settings, everyone, as `local`.

    Relative paths in `settings` count from the working folder (`AccessSettings.resolved`).
    `logged_in` is told of a principal whose key or token is seen for the first time. `clock` gives
    seconds since 1970, `ticks` seconds that never jump. `ConfigError` where a file cannot be used.
    """

    def __init__(
        self,
        settings: AccessSettings | None,
        *,
        logged_in: Callable[[Principal], None] | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        keep: int = 10_000,
    ) -> None:
        self._settings, self._logged_in, self._clock = settings, logged_in, clock
        self._keep = keep
        self._keys = _keys(settings)
        self._ring = KeyRing({} if self._keys is None else self._keys.value)
        self._tokens = _tokens(settings)
        self._tenants = Tenants({} if settings is None else settings.tenants)
        self._rates = Rates(ticks)
        # By hash of the key or token: who it is, until when, and as of which reading of the files.
        self._seen: OrderedDict[bytes, tuple[Principal, float, int]] = OrderedDict()
        self._reading = self._readings()
        self._looked = clock()

    @property
    def authenticated(self) -> bool:
        """Whether clients must show who they are."""
        return self._settings is not None

    def principal(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Who sent a request with these headers (names in lower case), or `Refused`."""
        if self._settings is None:
            return LOCAL
        now = self._clock()
        if not 0.0 <= now - self._looked < _LOOK_EVERY:
            self._look(now)
        sent = _credential(headers)
        digest = sha256(sent).digest()
        seen = self._seen.get(digest)
        if seen is not None and seen[1] > now and seen[2] == self._reading:
            self._seen.move_to_end(digest)
            return seen[0]
        return self._check(sent, digest, now)

    def require(self, principal: Principal, scope: str) -> None:
        """`Refused` (403) if the principal lacks a scope; none includes another."""
        if scope not in principal.scopes:
            raise no_scope(scope)

    def may_see(self, principal: Principal, account_id: str) -> bool:
        """Whether an account is one of the principal's tenant, or any if it has none."""
        return self._tenants.may_see(principal, account_id)

    def admit(self, principal: Principal, cost: float = 1.0) -> float:
        """Seconds to wait before a request of `cost`; 0.0: it is admitted, and counted."""
        rate, burst = principal.rate, principal.burst
        if rate is None:
            settings = self._settings
            if settings is None or settings.rate_per_second is None:
                return 0.0
            rate, burst = settings.rate_per_second, burst or settings.burst
        return self._rates.wait(principal.name, rate, burst or max(rate, 1.0), cost)

    def faults(self) -> list[str]:
        """What is wrong with files that changed, of which the former content still counts."""
        files = [self._keys, None if self._tokens is None else self._tokens.file]
        found = [file.fault for file in files if file is not None and file.fault is not None]
        return [*found, *self._tenants.faults()]

    def _check(self, sent: bytes, digest: bytes, now: float) -> Principal:
        """A key or token that was not seen yet, or not since the files changed."""
        before = self._seen.pop(digest, None)
        if sent.startswith(PREFIX):
            principal, until = self._ring.find(sent, now)
        elif self._tokens is not None:
            principal, until = self._tokens.find(sent, now)
            self._reading = self._readings()  # an unknown key's id makes it read its file again
        else:
            raise bad_credential(UNKNOWN)
        self._seen[digest] = principal, until, self._reading
        if len(self._seen) > self._keep:
            self._seen.popitem(last=False)
        if self._logged_in is not None and (before is None or before[0] != principal):
            self._logged_in(principal)
        return principal

    def _look(self, now: float) -> None:
        """Read files again that have changed; then everyone is checked again."""
        self._looked = now
        if self._keys is not None and self._keys.refresh():
            self._ring = KeyRing(self._keys.value)
        if self._tokens is not None:
            self._tokens.file.refresh()
        self._reading = self._readings()
        self._tenants.refresh()

    def _readings(self) -> int:
        """How often the files of keys were read: a larger number makes what was seen old."""
        return (self._keys.version if self._keys else 0) + (
            self._tokens.file.version if self._tokens else 0
        )


def _keys(settings: AccessSettings | None) -> Watched[dict[str, ApiKey]] | None:
    return None if settings is None or settings.keys is None else Watched(settings.keys, parse_keys)


def _tokens(settings: AccessSettings | None) -> Tokens | None:
    if settings is None or settings.jwt is None:
        return None
    try:
        from gpu_margin.server.tokens import Tokens
    except ImportError as error:
        raise ConfigError(
            f"server.access.jwt: {error.name} is not installed; pip install 'gpu-margin[serve]'"
        ) from error
    return Tokens(settings.jwt, bool(settings.tenants))


def _credential(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The one key or token among the headers."""
    sent = None
    for name, value in headers:
        if name == b"authorization":
            found = value[7:] if value.startswith(b"Bearer ") else _other(value)
        elif name == b"x-api-key":
            found = value
        else:
            continue
        if sent is not None:
            raise no_credential(TWO)
        sent = found
    if not sent:
        raise no_credential(NOTHING)
    if len(sent) > _LONGEST:
        raise bad_credential(UNKNOWN)
    return sent


def _other(value: bytes) -> bytes:
    """The token of a header Authorization; of Basic, the password."""
    scheme, _, rest = value.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        return rest.strip()
    if scheme != b"basic":
        raise no_credential(UNREADABLE)
    try:
        return b64decode(rest.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError) as error:
        raise no_credential(UNREADABLE) from error
