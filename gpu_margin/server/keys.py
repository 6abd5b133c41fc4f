"""API keys: long random secrets, of which only SHA-256 hashes are kept, in a TOML file.

A key is `gm_ID_SECRET`, 256 bits of secret: too long to be guessed, so that a plain hash is enough
and costs a request almost nothing. The id says which hash to compare with.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator, Field, ValidationError

from gpu_margin.failures import ConfigError
from gpu_margin.io.outputs import write_atomically
from gpu_margin.server.access_settings import NAME
from gpu_margin.server.principal import LOCAL, Principal, Scope, bad_credential
from gpu_margin.settings import Settings

PREFIX = b"gm_"
UNKNOWN = "the API key is not known"
EXPIRED = "the API key has expired"

_KEY = re.compile(rb"gm_([0-9a-f]{12})_[0-9a-f]{64}")
# Compared with where an id is unknown, so that it takes as long as a known one.
_NOBODY = bytes(32)
_HEADER = "# API keys of gpu-margin serve: hashes only. Written by `gpu-margin keys`.\n"


def _as_time(value: Any) -> Any:
    """A day is its first moment, UTC."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_as_time)]


class ApiKey(Settings):
    """`[keys.ID]` of a file of keys. `hash` is the hexadecimal SHA-256 of the whole key."""

    name: str = Field(pattern=NAME, description="the client's name, in logs and sequences")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope] = Field(min_length=1)
    tenant: str | None = Field(default=None, pattern=NAME)
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    burst: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    created: Moment
    expires: Moment | None = None

    def expired(self, now: datetime) -> bool:
        """Whether it is not to be taken any more."""
        return self.expires is not None and self.expires <= now


@dataclass(frozen=True)
class _Kept:
    hash: bytes
    principal: Principal
    until: float


class KeyRing:
    """Keys by id, to look up what a client sent."""

    def __init__(self, keys: Mapping[str, ApiKey]) -> None:
        self._kept = {
            key_id: _Kept(
                bytes.fromhex(key.hash),
                Principal(key.name, key.scopes, key.tenant, key.rate, key.burst, key_id),
                float("inf") if key.expires is None else key.expires.timestamp(),
            )
            for key_id, key in keys.items()
        }

    def find(self, sent: bytes, now: float) -> tuple[Principal, float]:
        """Whose key it is, and the time (seconds since 1970) at which it expires.

        `Refused` says no more of a wrong secret than of an unknown id.
        """
        match = _KEY.fullmatch(sent)
        kept = None if match is None else self._kept.get(match[1].decode())
        expected = _NOBODY if kept is None else kept.hash
        if not hmac.compare_digest(sha256(sent).digest(), expected) or kept is None:
            raise bad_credential(UNKNOWN)
        if kept.until <= now:
            raise bad_credential(EXPIRED)
        return kept.principal, kept.until


# ---------------------------------------------------------------- the file


def parse_keys(content: bytes) -> dict[str, ApiKey]:
    """The keys of a file by id; `ConfigError` says every fault."""
    try:
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}") from error
    tables = data.pop("keys", {})
    if data or not isinstance(tables, dict):
        raise ConfigError("not a file of keys: it has more than tables [keys.ID]")
    keys = {key_id: _parsed(key_id, table) for key_id, table in tables.items()}
    _check_names(keys)
    return keys


def read_keys(path: Path) -> dict[str, ApiKey]:
    """The keys of a file by id; `ConfigError` where it cannot be read."""
    try:
        return parse_keys(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def new_key(path: Path, name: str, **settings: Any) -> tuple[str, str]:
    """Add a key to a file, which may be new. Its id, and the key, which is nowhere else.

    `settings` are fields of `ApiKey`; `ConfigError` where they are wrong.
    """
    key_id = secrets.token_hex(6)
    key = f"gm_{key_id}_{secrets.token_hex(32)}"
    given = {name: value for name, value in settings.items() if value is not None}
    created = datetime.now(UTC).replace(microsecond=0)
    kept = {"hash": sha256(key.encode()).hexdigest(), "created": created}
    with _editing(path) as keys:
        keys[key_id] = _parsed(key_id, {**given, "name": name, **kept})
        _check_names(keys)
    return key_id, key


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Remove a key from a file; `ConfigError` where it is not in it."""
    read_keys(path)  # a file that is not there is not made
    with _editing(path) as keys:
        if key_id not in keys:
            raise ConfigError(f"{path}: has no key {key_id!r}; `gpu-margin keys list` shows ids")
        return keys.pop(key_id)


def _parsed(key_id: str, table: Any) -> ApiKey:
    if not re.fullmatch(r"[0-9a-f]{12}", key_id):
        raise ConfigError(f"keys.{key_id}: an id is 12 hexadecimal digits")
    try:
        return ApiKey.model_validate(table)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        lines = [
            f"keys.{'.'.join([key_id, *map(str, fault['loc'])])}: "
            + fault["msg"].removeprefix("Value error, ")
            for fault in faults
        ]
        raise ConfigError("\n".join(lines)) from error


def _check_names(keys: Mapping[str, ApiKey]) -> None:
    """Keys of one name are one client: it may have an old and a new key, but not two tenants."""
    by_name = sorted(keys.values(), key=lambda key: key.name)
    for name, same in groupby(by_name, key=lambda key: key.name):
        if name == LOCAL.name:
            raise ConfigError(f"the name {name!r} is taken: it is who asks where keys are not used")
        if len({key.tenant for key in same}) > 1:
            raise ConfigError(f"keys of the name {name!r} are of several tenants; rename one")


@contextmanager
def _editing(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys of a file, which is written anew afterwards; one process at a time."""
    import fcntl  # not everywhere, and only edits need it

    if not path.parent.is_dir():
        raise ConfigError(f"{path}: name a file in a folder that is there")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else {}
        yield keys
        text = _HEADER + "".join(_table(key_id, key) for key_id, key in keys.items())
        write_atomically(path, lambda temporary: _write_private(temporary, text, path))
        os.fsync(folder)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    finally:
        os.close(folder)


def _write_private(temporary: Path, text: str, path: Path) -> None:
    """Only its owner may read it; the owner stays who it was, as a server may be that user."""
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(text.encode())
        stream.flush()
        if path.exists():
            old = path.stat()
            if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.chown(descriptor, old.st_uid, old.st_gid)
        os.fsync(descriptor)


def _table(key_id: str, key: ApiKey) -> str:
    """A key in TOML; names are of letters that need no escape."""
    lines = [f"\n[keys.{key_id}]"]
    for name, value in key.model_dump(exclude_none=True).items():
        if isinstance(value, frozenset):
            shown = f"[{', '.join(repr(scope) for scope in sorted(value))}]"
        elif isinstance(value, datetime):
            shown = value.isoformat()
        else:
            shown = repr(value)
        lines.append(f"{name} = {shown}")
    return "\n".join(lines) + "\n"
