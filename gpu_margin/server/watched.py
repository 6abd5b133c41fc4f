"""A file that may change while the server runs: read again when it did, kept when it broke."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gpu_margin.failures import ConfigError

T = TypeVar("T")
_log = logging.getLogger("gpu_margin.server.access")

_Signature = tuple[int, int, int]
# A file that was young when it was read may have been written to in the same tick of its clock.
_YOUNG_NS = 2_000_000_000


class Watched(Generic[T]):
    """The content of a file as `parse(bytes)` has it; `ConfigError` where it cannot be read.

    `version` counts new values, `fault` says what is wrong with the file as it is now.
    """

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self.path, self._parse = path, parse
        self.fault: str | None = None
        self.version = 0
        self._signature = _settled(self._sign())
        self._bytes = self._read()
        self.value = self._parsed(self._bytes)

    def refresh(self) -> bool:
        """Whether there is a new value. A new file that is broken is logged, and leaves the old."""
        try:
            signature = self._sign()
            if signature == self._signature:
                return False
            # Signed before it is read: what is written in between is read the next time.
            content = self._read()
            self._signature = _settled(signature)
            if content == self._bytes:
                return self._well()
            self.value, self._bytes = self._parsed(content), content
            self.version += 1
        except ConfigError as error:
            if str(error) != self.fault:
                _log.error("kept what was read before: %s", error)
            self.fault = str(error)
            return False
        _log.info("read again: %s", self.path)
        self._well()
        return True

    def _well(self) -> bool:
        self.fault = None
        return False

    def _sign(self) -> _Signature:
        try:
            found = self.path.stat()
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror or error}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror or error}") from error

    def _parsed(self, content: bytes) -> T:
        try:
            return self._parse(content)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from error


def _settled(signature: _Signature) -> _Signature | None:
    return signature if time.time_ns() - signature[0] > _YOUNG_NS else None
