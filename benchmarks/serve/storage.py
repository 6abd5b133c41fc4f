"""The storage that the log is on: how often a second it can say that a write is safe."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

_PAGE = b"x" * 4096


def describe(folder: Path, seconds: float = 1.0) -> dict[str, Any]:
    """The file system of a folder, and its writes of a page with fsync, one after the other."""
    path, count = folder / "storage.probe", 0
    with path.open("wb", buffering=0) as stream:
        begun = time.monotonic()
        while (taken := time.monotonic() - begun) < seconds:
            stream.write(_PAGE)
            os.fsync(stream.fileno())
            count += 1
    path.unlink()
    return {"filesystem": filesystem(folder), "synced_writes_per_second": count / taken}


def filesystem(folder: Path) -> str:
    """Its kind (ext4, tmpfs, ...), empty where the system does not say."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    mounts = {place: kind for _, place, kind, *_ in map(str.split, lines)}
    around = [folder.resolve(), *folder.resolve().parents]
    return next((mounts[str(place)] for place in around if str(place) in mounts), "")
