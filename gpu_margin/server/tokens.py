"""JSON web tokens (RFC 7519) of an issuer, checked with public keys of a file (RFC 7517).

What RFC 8725 warns of is refused: the algorithm is that of the key, never the token's own choice;
no shared secrets; no token for somebody else; no token without an end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.exceptions import InvalidSubjectError

from gpu_margin.failures import ConfigError
from gpu_margin.server.access_settings import NAME, JwtSettings
from gpu_margin.server.principal import SCOPES, Principal, Refused, bad_credential
from gpu_margin.server.rates import Rates
from gpu_margin.server.watched import Watched

_LEAST_BITS = 2048
_LONGEST_SUBJECT = 200

UNREADABLE = "this is neither an API key nor a token that can be read"
ALGORITHM = "the token is signed by an algorithm that is not taken here"
KEY = "the token is signed with a key that is not known here"
SIGNATURE = "the token's signature is not right"
CLAIM = "the token lacks a claim that is needed, or it cannot be read"
TENANT = "the token names no tenant that could be"
TOO_MANY = "too many new tokens at once"
_REASONS: list[tuple[type[Exception], str]] = [
    (jwt.InvalidSignatureError, SIGNATURE),
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
    (jwt.MissingRequiredClaimError, CLAIM),
    (InvalidSubjectError, CLAIM),
    (jwt.PyJWTError, UNREADABLE),
    # Numbers that are none, or beyond any time.
    (Exception, CLAIM),
]


@dataclass(frozen=True)
class PublicKey:
    """A key that may have signed; `id` is empty where the file gives none."""

    id: str
    algorithm: str
    key: RSAPublicKey | Ed25519PublicKey


class Tokens:
    """Checks tokens. `tenants`: whether there are any, so that a token has to name one."""

    def __init__(self, settings: JwtSettings, tenants: bool) -> None:
        self._settings = settings
        required = settings.tenant_required
        self._tenant_required = tenants if required is None else required
        self.file = Watched(settings.jwks, parse_jwks)
        self._rates = Rates()
        self._required = ["exp", "sub"]
        self._required += ["iss"] if settings.issuer is not None else []
        self._required += ["aud"] if settings.audience is not None else []

    def find(self, sent: bytes, now: float) -> tuple[Principal, float]:
        """Whose token it is, and until when (seconds since 1970); `Refused` says why not."""
        key = self._key(sent)
        rate = self._settings.new_per_second
        wait = self._rates.wait("", rate, max(rate, 1.0))
        if wait > 0.0:
            raise Refused(429, TOO_MANY, retry_after=wait)
        claims = self._claims(sent, key)
        until = float(int(claims["exp"])) + self._settings.leeway
        if until <= now:
            raise bad_credential("the token has expired")
        return self._principal(claims, key), until

    def _key(self, sent: bytes) -> PublicKey:
        """The key that the token says it was signed with."""
        try:
            header = jwt.get_unverified_header(sent)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise bad_credential(UNREADABLE) from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms or "crit" in header:
            raise bad_credential(ALGORITHM)
        found = self._among(algorithm, key_id)
        if found is None and self.file.refresh():
            found = self._among(algorithm, key_id)
        if found is None:
            raise bad_credential(KEY)
        return found

    def _among(self, algorithm: str, key_id: Any) -> PublicKey | None:
        """By id; without one, the key of this algorithm if there is only one."""
        fit = [key for key in self.file.value if key.algorithm == algorithm]
        if key_id is not None:
            fit = [key for key in fit if key.id == key_id]
        return fit[0] if len(fit) == 1 else None

    def _claims(self, sent: bytes, key: PublicKey) -> Mapping[str, Any]:
        settings = self._settings
        try:
            claims: dict[str, Any] = jwt.decode(
                sent,
                key.key,
                algorithms=[key.algorithm],
                options={"require": self._required},
                issuer=settings.issuer,
                audience=settings.audience,
                leeway=settings.leeway,
            )
            float(int(claims["exp"]))
        except Exception as error:
            # The claims are whatever the issuer wrote: nothing in them may be our fault.
            reason = next(text for kind, text in _REASONS if isinstance(error, kind))
            raise bad_credential(reason) from error
        return claims

    def _principal(self, claims: Mapping[str, Any], key: PublicKey) -> Principal:
        subject = claims["sub"]
        if not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
            raise bad_credential(CLAIM)
        scopes = SCOPES.intersection(_words(claims.get(self._settings.scope_claim, "")))
        tenant = claims.get(self._settings.tenant_claim)
        if tenant is None:
            if self._tenant_required and "admin" not in scopes:
                raise bad_credential(TENANT)
        elif not isinstance(tenant, str) or not re.fullmatch(NAME, tenant):
            raise bad_credential(TENANT)
        # A tenant has no colon in it, so that no two (tenant, subject) have one name.
        return Principal(f"jwt:{tenant or ''}:{subject}", scopes, tenant, key=key.id)


def _words(scope: Any) -> Iterable[str]:
    """Scopes as RFC 8693 has them, separated by spaces, or as a list."""
    if isinstance(scope, str):
        return scope.split()
    return [one for one in scope if isinstance(one, str)] if isinstance(scope, list) else []


# ---------------------------------------------------------------- the file


def parse_jwks(content: bytes) -> list[PublicKey]:
    """The keys that may sign tokens here; `ConfigError` where there are none, or secret ones."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}") from error
    entries = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError('not a set of keys: it needs {"keys": [{...}, ...]}')
    found = [key for n, entry in enumerate(entries, 1) if (key := _public_key(n, entry))]
    if not found:
        raise ConfigError("no key for RS256 or EdDSA (Ed25519) in it")
    ids = [key.id for key in found if key.id]
    twice = sorted({key_id for key_id in ids if ids.count(key_id) > 1})
    if twice:
        raise ConfigError(f"two keys of the kid {twice[0]!r}")
    return found


def _public_key(n: int, entry: dict[str, Any]) -> PublicKey | None:
    """None for a key that is there for something else."""
    kind, where = entry.get("kty"), f"key {n}"
    if kind == "oct" or "d" in entry:
        raise ConfigError(f"{where}: is secret; the file is to have public keys only")
    algorithm = {"RSA": "RS256", "OKP": "EdDSA"}.get(str(kind))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    if kind == "OKP" and entry.get("crv") != "Ed25519":
        return None
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        return None
    key_id = entry.get("kid", "")
    if not isinstance(key_id, str):
        raise ConfigError(f"{where}: kid must be text")
    return _loaded(where, key_id, algorithm, entry)


def _loaded(where: str, key_id: str, algorithm: str, entry: dict[str, Any]) -> PublicKey:
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from error
    if isinstance(key, RSAPublicKey) and key.key_size < _LEAST_BITS:
        raise ConfigError(f"{where}: has {key.key_size} bits, fewer than {_LEAST_BITS}")
    return PublicKey(key_id, algorithm, key)
