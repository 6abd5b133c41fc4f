"""An issuer of tokens and a maker of keys, for tests of who may ask what."""

from __future__ import annotations

import base64
import hmac
import json
import time
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from gpu_margin.server.access import Access, Principal, Refused
from gpu_margin.server.access_settings import AccessSettings
from gpu_margin.server.keys import new_key

PrivateKey = RSAPrivateKey | Ed25519PrivateKey
_ALGORITHMS = {"RS256": jwt.algorithms.RSAAlgorithm, "EdDSA": jwt.algorithms.OKPAlgorithm}


@cache
def private_key(name: str, algorithm: str = "RS256") -> PrivateKey:
    """A key of this name, the same in all tests."""
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.generate()
    return generate_private_key(public_exponent=65537, key_size=2048)


def public_pem(name: str) -> bytes:
    return (
        private_key(name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def jwk(name: str, algorithm: str = "RS256", **members: Any) -> dict[str, Any]:
    """The public key as a file of keys has it; its kid is the name."""
    key: Any = private_key(name, algorithm).public_key()
    return {**_ALGORITHMS[algorithm].to_jwk(key, as_dict=True), "kid": name, **members}


def write_jwks(path: Path, *keys: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"keys": list(keys)}))
    return path


def claims(**changes: Any) -> dict[str, Any]:
    """What a good token says; None takes a claim away."""
    given = {
        "sub": "alice",
        "exp": int(time.time()) + 3600,
        "iss": "https://issuer.example",
        "aud": "gpu-margin",
        "scope": "read whatif",
        "tenant": "desk",
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def token(
    name: str = "one", algorithm: str = "RS256", kid: str | None = "", **changes: Any
) -> bytes:
    """A token signed by the key of this name."""
    return raw_token(claims(**changes), name, algorithm, name if kid == "" else kid)


def raw_token(payload: dict[str, Any], name: str, algorithm: str, kid: str | None) -> bytes:
    """A token of any content, which PyJWT would not sign: made by hand."""
    header = {"alg": algorithm, "typ": "JWT", **({} if kid is None else {"kid": kid})}
    return signed(header, payload, lambda body: sign(body, private_key(name, algorithm)))


def hmac_token(payload: dict[str, Any], secret: bytes, kid: str, algorithm: str = "HS256") -> bytes:
    """What an attacker makes who takes the public key for a shared secret."""
    header = {"alg": algorithm, "typ": "JWT", "kid": kid}
    return signed(header, payload, lambda body: hmac.digest(secret, body, sha256))


def signed(header: dict[str, Any], payload: Any, sign: Any) -> bytes:
    body = b".".join(_base64(json.dumps(part).encode()) for part in (header, payload))
    return body + b"." + _base64(sign(body))


def sign(body: bytes, key: PrivateKey) -> bytes:
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(body)
    rsa = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    return rsa.sign(body, key)


def _base64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now


# ---------------------------------------------------------------- a server's access

DESK = {"accounts": ["desk-*", "x[12]"]}


class Case:
    """A folder with a file of keys and one of an issuer, and an `Access` with a clock."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.clock = folder, Clock()
        self.file = folder / "keys.toml"
        self.id, self.key = new_key(self.file, "desk", scopes=["read", "whatif"], tenant="desk")
        self.jwks = write_jwks(folder / "jwks.json", jwk("one"))
        given = {"keys": "keys.toml", "jwt": {"jwks": "jwks.json", "audience": "gpu-margin"}}
        given = {**given, "tenants": {"desk": DESK}, **changes}
        self.settings = AccessSettings.model_validate(given).resolved(folder)
        self.logins: list[Principal] = []
        self.access = self.open()

    def open(self, **options: Any) -> Access:
        return Access(
            self.settings,
            logged_in=self.logins.append,
            clock=self.clock,
            ticks=self.clock,
            **options,
        )

    def reason(self, *headers: tuple[bytes, bytes], status: int = 401) -> str:
        with pytest.raises(Refused) as refused:
            self.access.principal(headers)
        assert refused.value.status == status
        return refused.value.reason

    def knows(self, sent: str | bytes) -> bool:
        try:
            self.access.principal(bearer(sent))
        except Refused:
            return False
        return True


def as_bytes(sent: str | bytes) -> bytes:
    return sent.encode() if isinstance(sent, str) else sent


def bearer(sent: str | bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"localhost"), (b"authorization", b"Bearer " + as_bytes(sent))]


def basic(sent: str | bytes, user: bytes = b"") -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Basic " + base64.b64encode(user + b":" + as_bytes(sent)))]
