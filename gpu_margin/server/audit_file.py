"""The file of the audit log: opened where it ended, appended to in whole lines."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from time import time_ns
from typing import Any

from gpu_margin.failures import ConfigError
from gpu_margin.server.chain import START, Link, make_line, read_tail, verify

# What is checked when a file is opened; all of it is for `gpu-margin audit verify`.
_WINDOW = 1 << 20


class InUse(ConfigError):
    """Another process writes the file."""


class AuditFile:
    """One writer's hold on the file; `ConfigError` where it is broken, `InUse` where it is held.

    A last line without its end, as a crash leaves it, is moved to a file of its own beside this
    one, and a record of the kind `torn` says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines, self.last_hash = 0, START
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        try:
            self._hold()
            torn = self._cut()
            self._continue()
            if torn is not None:
                self.append([(time_ns(), "torn", "audit", torn)])
            self.sync()
        except OSError as error:
            os.close(self._file)
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except BaseException:
            os.close(self._file)
            raise

    def append(self, records: Sequence[tuple[int, str, str, dict[str, Any]]]) -> None:
        """Write records (ns since 1970, kind, actor, details): all, or on OSError none."""
        lines, last = [], self.last_hash
        for n, (nanoseconds, kind, actor, details) in enumerate(records, self.lines + 1):
            line, last = make_line(n, nanoseconds, kind, actor, details, last)
            lines.append(line)
        self._append(b"".join(lines))
        self.lines, self.last_hash = self.lines + len(lines), last

    def sync(self) -> None:
        """Have it on the disk, in the file of its name: OSError if that was moved or removed."""
        os.fsync(self._file)
        own, named = os.fstat(self._file), self.path.stat()
        if (own.st_dev, own.st_ino) != (named.st_dev, named.st_ino):
            raise OSError(f"{self.path} was moved or replaced while it was written")

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)

    def _append(self, content: bytes) -> None:
        """A part that was written when the disk became full is taken back."""
        size, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def _hold(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"{self.path}: another process writes it; give each server a log of its own"
            ) from error

    def _cut(self) -> dict[str, Any] | None:
        """What is to be said of a torn last line; it is moved away, after it was kept."""
        size = os.fstat(self._file).st_size
        end = self._end(size)
        if end == size:
            return None
        torn = os.pread(self._file, size - end, end)
        kept = self.path.with_name(f"{self.path.name}.torn-{time_ns()}")
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(torn)
            stream.flush()
            os.fsync(descriptor)
        os.ftruncate(self._file, end)
        return {"bytes": len(torn), "sha256": sha256(torn).hexdigest(), "file": kept.name}

    def _end(self, size: int) -> int:
        """Where the last whole line ends."""
        last = os.pread(self._file, _WINDOW, max(0, size - _WINDOW))
        at = last.rfind(b"\n") + 1
        if not at and size > _WINDOW:
            raise self._broken(None, "its end is no audit log")
        return size - len(last) + at

    def _continue(self) -> None:
        """Go on after the last line, if the end of the file is as it was written."""
        size = os.fstat(self._file).st_size
        start = max(0, size - _WINDOW)
        last = read_tail(os.pread(self._file, _WINDOW, start), whole=not start)
        if isinstance(last, Link):
            self.lines, self.last_hash = last.seq, last.hash
        elif last is not None:
            broken = verify(self.path).broken
            line, what = (broken.line, broken.what) if broken else (None, last)
            raise self._broken(line, what)

    def _broken(self, line: int | None, what: str) -> ConfigError:
        where = "" if line is None else f"line {line} "
        return ConfigError(
            f"{self.path}: {where}{what}; `gpu-margin audit verify` checks all of it; keep it, and "
            "move it away to begin a new one"
        )
